"""Shares of what latents do, not of how many there are: every latent counts with a weight.

A weighted share is sum(w of the category) / sum(w). Its interval treats the side as the effective
number of equally weighted latents (Kish 1965) that would be as uncertain, in the score formulas of
unweighted shares, as Korn & Graubard (1998) do for survey weights; Student's t with one degree of
freedom fewer than effective latents stands for the unknown spread of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm
from scipy.stats import t as student_t

from taxonomy.change import (
    CategoryChange,
    CategoryCounts,
    TestedCategory,
    adjusted,
    statistics_of,
)
from taxonomy.counts import Side
from taxonomy.errors import InputError
from taxonomy.exact import least_attainable_p
from taxonomy.intervals import score_p
from taxonomy.significance import ALPHA

Weights = npt.NDArray[np.float64]


@dataclass(frozen=True)
class WeightedLatents:
    """The latents of one side's denominator: weights (n,), and the rows of each category."""

    weights: Weights
    members: Mapping[str, npt.NDArray[np.int64]]
    """Category -> indices into `weights`; a category without latents may be missing."""

    def __post_init__(self) -> None:
        if not np.isfinite(self.weights).all() or (self.weights < 0).any():
            raise InputError("the weight of a latent is a finite number of 0 or more")

    def rows_of(self, category: str) -> npt.NDArray[np.int64]:
        """Indices of a category's latents."""
        return self.members.get(category, np.empty(0, dtype=np.int64))


def weighted_change_statistics(
    counts: Sequence[CategoryCounts],
    target: WeightedLatents,
    reference: WeightedLatents,
    alpha: float = ALPHA,
) -> list[CategoryChange]:
    """Return the statistics of every category's weighted shares, in the order given.

    `counts` are the unweighted counts of the same latents: they decide what is `too few to say`.
    p is that of the score test on effective numbers, so that it agrees with the interval.
    """
    return adjusted(
        [statistics_of(_tested(row, target, reference, alpha), alpha) for row in counts], alpha
    )


def _tested(
    row: CategoryCounts, target: WeightedLatents, reference: WeightedLatents, alpha: float
) -> TestedCategory:
    sides = (
        effective_side(target.weights, target.rows_of(row.category)),
        effective_side(reference.weights, reference.rows_of(row.category)),
    )
    return TestedCategory(
        counts=row,
        target=sides[0],
        reference=sides[1],
        p_value=score_p(*sides, degrees_of_freedom=_freedom(*sides)),
        least_p=least_attainable_p(row.target, row.reference),
        test="score",
        interval_alpha=widened_alpha(alpha, *sides),
        is_searched=False,
    )


def _freedom(target: Side, reference: Side) -> float:
    return max(1.0, min(target.total, reference.total) - 1.0)


def widened_alpha(alpha: float, target: Side, reference: Side) -> float:
    """The level at which a normal quantile equals Student's t at `alpha`."""
    return 2.0 * float(norm.sf(student_t.isf(alpha / 2, _freedom(target, reference))))


def effective_side(weights: Weights, rows: npt.NDArray[np.int64]) -> Side:
    """The side of equally weighted latents with the same share and at least the same variance.

    The effective number is the smaller one of Kish's sum(w)^2 / sum(w^2), which holds where weight
    and category are independent, and of share * (1 - share) / linearised variance, which does not
    ask for that but cannot be trusted alone where few latents carry a category.
    """
    total = float(weights.sum())
    if total == 0:
        return Side(0, 0)
    share = min(1.0, float(weights[rows].sum()) / total)
    number = kish_number(weights)
    variance = _linearised_variance(weights, rows, share)
    if variance > 0 and 0 < share < 1:
        number = min(number, share * (1 - share) / variance)
    return Side(share * number, number) if len(rows) < len(weights) else Side(number, number)


def kish_number(weights: Weights) -> float:
    """Kish's effective number sum(w)^2 / sum(w^2) of latents; 0 where no latent has weight."""
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares else 0.0


def _linearised_variance(weights: Weights, rows: npt.NDArray[np.int64], share: float) -> float:
    """Variance of the ratio sum(w y) / sum(w) by linearisation (Cochran 1977, eq. 6.13)."""
    n_latents = len(weights)
    if n_latents < 2:
        return 0.0
    residuals = -share * weights
    residuals[rows] += weights[rows]
    return float((residuals**2).sum() / weights.sum() ** 2 * n_latents / (n_latents - 1))
