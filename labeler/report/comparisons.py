"""Comparisons with what is active for them, their latent sets, and the latents that are counted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from crosscoder.config import SIDES, SideName
from crosscoder.isolation_rules import Specificity
from labeler.errors import UsageError
from labeler.store.comparisons import NamedComparison, StudyComparisons, study_comparisons
from labeler.store.effects import effect_weights
from labeler.store.latents import current_setting
from labeler.store.outcomes import EFFECTIVE_OUTCOMES, LABELLED
from labeler.store.schema import (
    Category,
    Comparison,
    EffectiveLabel,
    EffectiveLabelCategory,
    Latent,
    LatentScaling,
    LatentSet,
    LatentSetMember,
    TaxonomyVersion,
)

COUNTING = "primary"
"""How the leading rows count: a latent counts for its primary category alone."""
BOTH = "both"
"""Both sides of a comparison, in the scores."""
OUTCOMES_OF = {
    "labelled": frozenset(LABELLED),
    "assigned": frozenset({"assigned"}),
    "isolated": frozenset(EFFECTIVE_OUTCOMES),
}
"""The outcomes that each denominator counts."""


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
class ShiftCloud:
    """Strength shifts of every latent of a crosscoder, below 0 = weakened; NaN = undefined."""

    density: NDArray[np.float64]
    """(n,) share of tokens on which the latent fires."""
    strength_shift: NDArray[np.float64]
    """(n,)"""
    shift_t: NDArray[np.float64]
    """(n,) the shift over its standard error."""


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
    shift: ShiftCloud | None = None
    """None where the set was not chosen by the shift."""


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
    word: str | None = None
    """What its latents are called, where they were chosen by their shift."""

    @property
    def is_imported(self) -> bool:
        """Whether the latents came from a file."""
        return self.rule == "imported"


@dataclass(frozen=True)
class Member:
    """One latent of one side with its active label."""

    latent_id: int
    side: SideName
    outcome: str
    categories: tuple[frozenset[str], ...]
    """By rank, the primary one first: each with its parent."""
    density: float | None
    mean_activation: float | None
    effect: float | None = None
    """Mean |attribution| in both directions; None where the effect was not measured."""
    p_reappear: float | None = None
    """Share of the crosscoders of other seeds with a counterpart; None without any."""
    specificity: Specificity = field(default_factory=Specificity)

    def is_in(self, denominator: str) -> bool:
        """Whether the latent is in a denominator: labelled, assigned or isolated."""
        return self.outcome in OUTCOMES_OF[denominator]

    def counted_for(self, counting: str) -> frozenset[str]:
        """Categories and parents it counts for: of its primary category, or of any."""
        chosen = self.categories[:1] if counting == "primary" else self.categories
        return frozenset().union(*chosen)


@dataclass(frozen=True)
class Members:
    """The latents of both sides."""

    target: tuple[Member, ...]
    reference: tuple[Member, ...]

    def of(self, side: SideName) -> tuple[Member, ...]:
        """The latents of a side."""
        return self.target if side == "target" else self.reference


def read_members(session: Session, facts: ActiveComparison) -> Members:
    """Every latent of both sides, in the order of their keys."""
    target, reference = (_side(session, facts, side) for side in SIDES)
    return Members(target, reference)


def _side(session: Session, facts: ActiveComparison, side: SideName) -> tuple[Member, ...]:
    categories = _categories(session, facts, side)
    specificity = _specificity(session, facts, side)
    effects = effect_weights(session, facts.comparison.id)
    rows = session.execute(
        select(
            EffectiveLabel.latent_id,
            EffectiveLabel.outcome,
            Latent.density,
            Latent.mean_activation,
            Latent.p_reappear,
        )
        .join(Latent, Latent.id == EffectiveLabel.latent_id)
        .where(EffectiveLabel.comparison_id == facts.comparison.id, EffectiveLabel.side == side)
        .order_by(EffectiveLabel.latent_id)
    )
    return tuple(
        Member(
            latent_id=row.latent_id,
            side=side,
            outcome=row.outcome,
            categories=tuple(categories[row.latent_id]),
            density=row.density,
            mean_activation=row.mean_activation,
            effect=None if effects is None else effects.get(row.latent_id, 0.0),
            p_reappear=row.p_reappear,
            specificity=specificity.get(row.latent_id, Specificity()),
        )
        for row in rows
    )


def _categories(
    session: Session, facts: ActiveComparison, side: SideName
) -> dict[int, list[frozenset[str]]]:
    parent = aliased(Category)
    rows = session.execute(
        select(EffectiveLabelCategory.latent_id, Category.slug, parent.slug.label("parent"))
        .join(Category, Category.id == EffectiveLabelCategory.category_id)
        .outerjoin(parent, parent.id == Category.parent_id)
        .where(
            EffectiveLabelCategory.comparison_id == facts.comparison.id,
            EffectiveLabelCategory.side == side,
        )
        .order_by(EffectiveLabelCategory.latent_id, EffectiveLabelCategory.rank)
    )
    found: dict[int, list[frozenset[str]]] = defaultdict(list)
    for row in rows:
        found[row.latent_id].append(frozenset({row.slug} | ({row.parent} - {None})))
    return found


def _specificity(
    session: Session, facts: ActiveComparison, side: SideName
) -> dict[int, Specificity]:
    latent_set = facts.latent_set(side)
    rows = session.execute(
        select(LatentSetMember.latent_id, LatentSetMember.rank, LatentScaling)
        .outerjoin(
            LatentScaling,
            (LatentScaling.latent_id == LatentSetMember.latent_id)
            & (LatentScaling.target_model_id == latent_set.target_model_id)
            & (LatentScaling.reference_model_id == latent_set.against_model_id),
        )
        .where(LatentSetMember.latent_set_id == latent_set.id)
    )
    return {
        latent_id: Specificity(
            rank=rank,
            nu_error=scaling.nu_error if scaling else None,
            nu_error_high=scaling.nu_error_high if scaling else None,
            nu_reconstruction=scaling.nu_reconstruction if scaling else None,
            nu_reconstruction_high=scaling.nu_reconstruction_high if scaling else None,
        )
        for latent_id, rank, scaling in rows
    }
