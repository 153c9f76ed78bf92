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
from scipy import optimize, special, stats

from taxonomy.counts import ALPHA
from taxonomy.intervals import adjust_by_level
from taxonomy.randomisation import DrawnCounts

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

LEAST_EFFECTIVE = 10.0
"""Fewest latents of equal weight that a category must be worth. Where one or two latents have most
of the weight, the shift says what these are, whatever the category is called."""
LEAST_MODERATED = 6
"""Fewest variances that moderate one another."""
_LEAST_HALF = 1e-3
"""Half of the fewest degrees of freedom that a trend is worth."""


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

    @property
    def excess(self) -> float | None:
        """The shift less the mean of the scrambled ones: its sign is the direction."""
        if self.weighted_shift is None or self.scrambled_low is None or self.scrambled_high is None:
            return None
        return self.weighted_shift - (self.scrambled_low + self.scrambled_high) / 2


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
    the prediction of one further value. Few scrambled fine-tunes say little of a single category's
    variance, so it is moderated by those of the level's other categories, see `moderated`, and the
    larger of both is taken. p is the larger one of all latents and of all but the heaviest, so that
    no call rests on one latent. Text and latents are the same in all: nothing is said of other
    text.
    """
    known = np.isfinite(shifts) & np.isfinite(scrambled).all(axis=0) & counted & (squares > 0)
    rows = np.vstack([shifts, scrambled])
    every = {
        i: _Compared.of(rows, squares, known & member, known & ~member)
        for i, member in enumerate(members.T)
        if (known & member).any() and (known & ~member).any()
    }
    compared = {i: each for i, each in every.items() if each.effective >= LEAST_EFFECTIVE}
    without = {
        i: _Compared.of(rows, squares, _without_heaviest(known & members[:, i], squares), others)
        for i in compared
        if (others := known & ~members[:, i]).any()
    }
    found = [WeightedShift()] * len(levels)
    for level in set(levels):
        here = [i for i in compared if levels[i] == level]
        whole, less = (
            _judged([each[i] for i in here], len(scrambled), alpha) for each in (compared, without)
        )
        for i, row, other in zip(here, whole, less, strict=True):
            p = max(row.weighted_shift_p, other.weighted_shift_p)
            found[i] = replace(row, weighted_shift_p=p)
    q_values = adjust_by_level(
        list(levels),
        [None if row.weighted_shift is None else row.weighted_shift_p for row in found],
    )
    return [
        replace(row, weighted_shift_q=None if row.weighted_shift is None else q)
        for row, q in zip(found, q_values, strict=True)
    ]


@dataclass(frozen=True)
class _Compared:
    """The weighted shift of one category, and what the scrambled fine-tunes show."""

    true: float
    middle: float
    variance: float
    """Between scrambled fine-tunes."""
    effective: float
    """Latents of equal weight that would vary as much."""

    @classmethod
    def of(
        cls, rows: FloatArray, squares: FloatArray, own: BoolArray, others: BoolArray
    ) -> _Compared:
        """From the rows (1 + K, F) of the true fine-tune and the scrambled ones."""
        difference = _mean(rows, squares, own) - _mean(rows, squares, others)
        return cls(
            true=float(difference[0]),
            middle=float(difference[1:].mean()),
            variance=float(difference[1:].var(ddof=1)),
            effective=float(squares[own].sum() ** 2 / (squares[own] ** 2).sum()),
        )


def _judged(compared: Sequence[_Compared], n_scrambled: int, alpha: float) -> list[WeightedShift]:
    """The categories of one level, their variances moderated by one another."""
    own = np.array([each.variance for each in compared])
    typical, freedom = moderated(
        own, np.log([each.effective for each in compared]), n_scrambled - 1
    )
    # Below a category's own variance, held-out scrambled fine-tunes are called too often.
    variances = np.maximum(own, typical)
    judged = []
    for each, variance in zip(compared, variances, strict=True):
        error = float(np.sqrt(variance * (1 + 1 / n_scrambled)))
        reach = float(stats.t.isf(alpha / 2, freedom)) * error
        ratio = abs(each.true - each.middle) / error if error > 0 else 0.0
        p = float(2 * stats.t.sf(ratio, freedom))
        judged.append(WeightedShift(each.true, each.middle - reach, each.middle + reach, p))
    return judged


def moderated(
    variances: FloatArray, covariate: FloatArray, freedom: int
) -> tuple[FloatArray, float]:
    """Variances drawn towards their trend over a covariate, and their degrees of freedom.

    Each of n variances has `freedom` degrees of its own. The trend is linear in the logarithm; how
    far variances scatter around it beyond chance decides what it is worth, in degrees of freedom
    that are added (empirical Bayes: Smyth 2004, with the trend of limma). Fewer than
    LEAST_MODERATED variances, or one of 0, stay as they are.
    """
    n = len(variances)
    if n < LEAST_MODERATED or not (variances > 0).all():
        return variances, float(freedom)
    half = freedom / 2
    logs = np.log(variances) - special.digamma(half) + np.log(half)
    design = np.stack([np.ones(n), covariate], axis=1)
    trend = design @ np.linalg.lstsq(design, logs, rcond=None)[0]
    excess = float(((logs - trend) ** 2).sum()) / (n - 2) - float(special.polygamma(1, half))
    most = float(n * freedom)
    if excess <= special.polygamma(1, most / 2):
        return np.exp(trend), most
    prior = 2 * float(
        optimize.brentq(lambda x: special.polygamma(1, x) - excess, _LEAST_HALF, most / 2)
    )
    typical = np.exp(trend + special.digamma(prior / 2) - np.log(prior / 2))
    drawn: FloatArray = (prior * typical + freedom * variances) / (prior + freedom)
    return drawn, min(prior + freedom, most)


def stretched(drawn: DrawnCounts, scrambled: DrawnCounts, alpha: float = ALPHA) -> DrawnCounts:
    """The drawn counts, stretched to what the sides of scrambled fine-tunes reach.

    Swapped documents say what chance gives where the models do not differ. A fine-tune without
    meaning does differ, and moves whole categories. So each category's draws are stretched, where
    they reach less far: their 1 - alpha quantile then lies where a further scrambled fine-tune
    stays with probability 1 - alpha, as predicted by the `scrambled` ones (K, C). p, intervals and
    advice follow. Fewer than two scrambled ones stretch nothing.
    """
    n_scrambled = scrambled.n_draws
    if n_scrambled < 2:
        return drawn
    null = scrambled.differences
    error = null.std(axis=0, ddof=1) * np.sqrt(1 + 1 / n_scrambled)
    reach = np.abs(null.mean(axis=0)) + stats.t.isf(alpha / 2, n_scrambled - 1) * error
    own = np.quantile(np.abs(drawn.differences), 1 - alpha, axis=0)
    factor = np.divide(reach, own, out=np.ones_like(own), where=own > 0)
    return replace(drawn, stretch=np.maximum(1.0, factor))


def _without_heaviest(own: BoolArray, squares: FloatArray) -> BoolArray:
    """The latents of a category but the one of the largest weight."""
    less = own.copy()
    less[np.argmax(np.where(own, squares, -np.inf))] = False
    return less


def _mean(rows: FloatArray, squares: FloatArray, which: BoolArray) -> FloatArray:
    weights = squares[which] / squares[which].sum()
    mean: FloatArray = rows[:, which] @ weights
    return mean
