"""The change at stricter isolation thresholds: does the conclusion depend on one threshold?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from taxonomy.change import percent_change
from taxonomy.counts import Side
from taxonomy.errors import InputError
from taxonomy.intervals import ratio_interval
from taxonomy.settings import ALPHA

LEAST_LATENTS = 10
"""Latents that a side needs for the sign of a change at a stricter threshold to count."""
LEAST_SHARE = 0.2
"""Share of a side's latents that a threshold must keep for the same reason."""
DEFAULT_POINTS = 12


@dataclass(frozen=True)
class SweptLatent:
    """A latent of the denominator: the loosest threshold it still passes, and its categories.

    A latent is kept where its `strictness` is at most the threshold: smaller = more specific.
    """

    strictness: float
    categories: frozenset[str]
    """Parents among them."""


@dataclass(frozen=True)
class SweepPoint:
    """One category at one threshold; the change in percent with its 95% score interval."""

    category: str
    threshold: float
    target_count: int
    target_total: int
    reference_count: int
    reference_total: int
    percent_change: float | None
    ci_low: float | None
    ci_high: float | None
    """None next to a `ci_low` = infinite."""

    @property
    def sign(self) -> int:
        """1 more (or only) on the target side, -1 less, 0 equal or none at all."""
        if self.percent_change is None:
            return 1 if self.target_count and self.reference_total else 0
        return int(np.sign(self.percent_change))


Stability = Literal["stable", "unstable", "too few to say"]


@dataclass(frozen=True)
class SweptCategory:
    """One category over all thresholds, the loosest one (the study's own) last."""

    category: str
    points: tuple[SweepPoint, ...]
    stability: Stability
    """`unstable`: at some stricter threshold the point estimate has the other sign."""
    n_compared: int
    """Stricter thresholds with enough latents and a sign."""
    n_same_sign: int


def sweep_thresholds(
    target: Sequence[SweptLatent],
    reference: Sequence[SweptLatent],
    n_points: int = DEFAULT_POINTS,
) -> tuple[float, ...]:
    """Thresholds that keep evenly growing parts of all latents, from a tenth to all, in order."""
    values = np.array([latent.strictness for latent in (*target, *reference)])
    if not len(values):
        raise InputError("a sweep needs latents")
    if not np.isfinite(values).all():
        raise InputError("a sweep needs a finite strictness of every latent")
    parts = np.linspace(0.1, 1.0, n_points)
    return tuple(np.unique(np.quantile(values, parts, method="higher")).tolist())


def sweep_changes(
    categories: Sequence[str],
    target: Sequence[SweptLatent],
    reference: Sequence[SweptLatent],
    thresholds: Sequence[float],
    alpha: float = ALPHA,
) -> tuple[SweptCategory, ...]:
    """Return the change of each category at each threshold, and whether its sign holds.

    Thresholds in rising order; the last one keeps every latent of the study.
    """
    return tuple(
        _sweep_category(
            category,
            tuple(_point(category, target, reference, limit, alpha) for limit in thresholds),
        )
        for category in categories
    )


def _point(
    category: str,
    target: Sequence[SweptLatent],
    reference: Sequence[SweptLatent],
    threshold: float,
    alpha: float,
) -> SweepPoint:
    first, second = (_side(category, side, threshold) for side in (target, reference))
    ratio = ratio_interval(first, second, alpha)
    return SweepPoint(
        category=category,
        threshold=threshold,
        target_count=int(first.count),
        target_total=int(first.total),
        reference_count=int(second.count),
        reference_total=int(second.total),
        percent_change=percent_change(first, second),
        ci_low=None if ratio is None else 100 * (ratio.low - 1),
        ci_high=None if ratio is None or np.isinf(ratio.high) else 100 * (ratio.high - 1),
    )


def _side(category: str, latents: Sequence[SweptLatent], threshold: float) -> Side:
    kept = [latent for latent in latents if latent.strictness <= threshold]
    return Side(sum(category in latent.categories for latent in kept), len(kept))


def _sweep_category(category: str, points: tuple[SweepPoint, ...]) -> SweptCategory:
    own = points[-1]
    compared = [point for point in points[:-1] if point.sign and _is_large(point, own)]
    same = sum(point.sign == own.sign for point in compared)
    if not own.sign or not compared:
        stability: Stability = "too few to say"
    else:
        stability = "stable" if same == len(compared) else "unstable"
    return SweptCategory(category, points, stability, len(compared), same)


def _is_large(point: SweepPoint, own: SweepPoint) -> bool:
    return all(
        kept >= max(LEAST_LATENTS, LEAST_SHARE * total)
        for kept, total in (
            (point.target_total, own.target_total),
            (point.reference_total, own.reference_total),
        )
    )
