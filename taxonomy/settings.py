"""Settings of clustering and tests that a study may choose, and what counts as shown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ClusterSettings(BaseModel):
    """How far apart clusters are and what they need; immutable, unknown names are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    cluster_distance: float | None = Field(None, gt=0, lt=2)
    """Cosine distance from which clusters of explanations stay apart; without it, the one at which
    clusters of subsamples agree best."""
    min_members: int = Field(3, ge=1)
    """Explanations that a cluster needs to be proposed as a category."""


ALPHA = 0.05
"""Level of all tests: a change is shown where its q lies below; intervals cover 1 - ALPHA."""

ExactTest = Literal["fisher", "boschloo"]
"""Exact tests of a two-by-two table."""

Verdict = Literal["up", "down", "too few to say", "no evidence"]
"""What the numbers allow to say about one category."""


def adjust_by_level(levels: Sequence[int], p_values: Sequence[float | None]) -> list[float]:
    """Benjamini-Hochberg q of each row; the rows of one level of the tree are a family.

    A row whose p is None is no test: it belongs to no family, and its q is 1.
    """
    from taxonomy.exact_tests import benjamini_hochberg

    families: dict[int, dict[int, float]] = defaultdict(dict)
    for index, (level, p_value) in enumerate(zip(levels, p_values, strict=True)):
        if p_value is not None:
            families[level][index] = p_value
    q_values = [1.0] * len(p_values)
    for family in families.values():
        for index, q_value in zip(family, benjamini_hochberg([*family.values()]), strict=True):
            q_values[index] = q_value
    return q_values


def verdict_of(rises: bool, q_value: float, least_p: float, alpha: float = ALPHA) -> Verdict:
    """The verdict on a change: `least_p` is the smallest p that a table of its size could reach."""
    if least_p >= alpha:
        return "too few to say"
    if q_value >= alpha:
        return "no evidence"
    return "up" if rises else "down"
