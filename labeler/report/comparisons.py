"""Comparisons with what is active for them, and the latent sets that they compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from crosscoder.config import SideName
from labeler.errors import UsageError
from labeler.store.comparisons import NamedComparison, StudyComparisons, study_comparisons
from labeler.store.latents import current_setting
from labeler.store.schema import Comparison, LatentSet, TaxonomyVersion


@dataclass(frozen=True)
class ActiveComparison:
    """A comparison with its active latent sets, taxonomy version and judge."""

    comparison: Comparison
    target_set: LatentSet
    reference_set: LatentSet
    version: TaxonomyVersion
    judge_id: int

    def latent_set(self, side: SideName) -> LatentSet:
        """The latent set of a side."""
        return self.target_set if side == "target" else self.reference_set


def read_comparisons(
    session: Session, named: Sequence[NamedComparison] | None = None
) -> list[ActiveComparison]:
    """The active version, judge and settings of each comparison, in the study's order.

    `named` are those of study.toml; None = every comparison of the database, by name. Raises
    UsageError when there is none.
    """
    return active_comparisons(session, study_comparisons(session, named))


def active_comparisons(session: Session, found: StudyComparisons) -> list[ActiveComparison]:
    """The active version, judge and settings of the comparisons shown; UsageError for none."""
    if not found.shown:
        raise UsageError(f"report: no comparison is labelled yet; {found.why_none}")
    return [_facts(session, comparison) for comparison in found.shown]


def _facts(session: Session, comparison: Comparison) -> ActiveComparison:
    setting = current_setting(session, comparison.id)
    if setting is None:
        raise UsageError(f"report: comparison {comparison.name} is not labelled yet")
    return ActiveComparison(
        comparison,
        session.get_one(LatentSet, comparison.target_set_id),
        session.get_one(LatentSet, comparison.reference_set_id),
        session.get_one(TaxonomyVersion, setting.taxonomy_version_id),
        setting.judge_id,
    )


@dataclass(frozen=True)
class ScalingCloud:
    """Latent scaling of every latent of a crosscoder for one ordered pair of models."""

    delta_norm: NDArray[np.float64]
    """(n,) 1 = only the target model; NaN = undefined."""
    nu_error: NDArray[np.float64]
    """(n,)"""
    nu_reconstruction: NDArray[np.float64]
    """(n,)"""
    chosen: NDArray[np.bool_]
    """(n,) latents of the set."""


@dataclass(frozen=True)
class LatentSetView:
    """One side of a comparison: which latents, and why these."""

    side: SideName
    name: str
    label: str
    """Name of the side in the report."""
    rule: str
    rule_params: dict[str, Any]
    message: str | None
    target_model: str | None
    against_model: str | None
    size: int
    cloud: ScalingCloud | None = None

    @property
    def is_imported(self) -> bool:
        """Whether the latents came from a file."""
        return self.rule == "imported"
