"""Is a category's shift more than a change of the weights without meaning would show?

A fine-tune with scrambled weight changes shifts the latents of some concepts more than those of
others, and always in the same documents. So a test over documents and latents calls it, too. Here
the shift of a category is compared with that in several scrambled fine-tunes of the same size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from taxonomy.counts import ALPHA
from taxonomy.intervals import adjust_by_level

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

LEAST_LATENTS = 5
"""Fewest latents of a category whose shift is compared."""


@dataclass(frozen=True)
class WeightedShift:
    """The weighted shift of one category beside that of K scrambled fine-tunes; None = unknown."""

    weighted_shift: float | None = None
    """Mean shift of the category's latents less that of all others, each latent weighted by the
    sum of its squared activations."""
    scrambled_low: float | None = None
    """Bounds between which the shift of a further scrambled fine-tune lies with 1 - alpha."""
    scrambled_high: float | None = None
    weighted_shift_p: float = 1.0
    weighted_shift_q: float | None = None
    """Benjamini-Hochberg over the categories of the same level."""


def weighted_shifts(
    shifts: FloatArray,
    scrambled: FloatArray,
    squares: FloatArray,
    members: BoolArray,
    counted: BoolArray,
    levels: Sequence[int],
    alpha: float = ALPHA,
) -> list[WeightedShift]:
    """Compare the true shifts (F,) with `scrambled` (K, F), for each category of `members` (F, C).

    `squares` (F,) are the sums of f^2, so a mean is sum <f (z^t - z^r), u> / sum f^2 over all
    tokens and latents of the category: it tells how much more strongly the category is used, and
    rare noisy latents hardly count. `counted` (F,) says which latents there are, `levels` (C,) the
    level of each category.

    If the fine-tune were one more scrambled one, its shift less their mean, over their standard
    deviation times sqrt(1 + 1 / K), had Student's t distribution with K - 1 degrees of freedom:
    the prediction of one further value. Text and latents are the same in all, so nothing is said
    of other text.
    """
    known = np.isfinite(shifts) & np.isfinite(scrambled).all(axis=0) & counted & (squares > 0)
    rows = np.vstack([shifts, scrambled])
    found = [_compared(rows, squares, known, member, alpha) for member in members.T]
    q_values = adjust_by_level(
        list(levels),
        [None if row.weighted_shift is None else row.weighted_shift_p for row in found],
    )
    return [
        replace(row, weighted_shift_q=None if row.weighted_shift is None else q)
        for row, q in zip(found, q_values, strict=True)
    ]


def _compared(
    rows: FloatArray, squares: FloatArray, known: BoolArray, member: BoolArray, alpha: float
) -> WeightedShift:
    """One category; `rows` (1 + K, F) are the true shifts and the scrambled ones."""
    own, others = known & member, known & ~member
    n_scrambled = len(rows) - 1
    if own.sum() < LEAST_LATENTS or not others.any() or n_scrambled < 2:
        return WeightedShift()
    difference = _mean(rows, squares, own) - _mean(rows, squares, others)
    true, null = float(difference[0]), difference[1:]
    middle = float(null.mean())
    error = float(null.std(ddof=1)) * float(np.sqrt(1 + 1 / n_scrambled))
    reach = float(stats.t.isf(alpha / 2, n_scrambled - 1)) * error
    p = float(2 * stats.t.sf(abs(true - middle) / error, n_scrambled - 1)) if error > 0 else 1.0
    return WeightedShift(true, middle - reach, middle + reach, p)


def _mean(rows: FloatArray, squares: FloatArray, which: BoolArray) -> FloatArray:
    weights = squares[which] / squares[which].sum()
    mean: FloatArray = rows[:, which] @ weights
    return mean
