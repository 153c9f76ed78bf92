"""Intervals for ratios of sums over blocks of documents, by deleting one block at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Interval:
    """A point estimate with a confidence interval, per latent; NaN where it is not defined."""

    value: FloatArray
    """(F,) ratio of the sums over all blocks, without bias correction."""
    low: FloatArray
    """(F,)"""
    high: FloatArray
    """(F,)"""


def jackknife_ratio(
    numerator: FloatArray, denominator: FloatArray, weight: FloatArray, confidence: float = 0.95
) -> Interval:
    """Ratio of two sums over blocks (G, F), with the delete-one-block jackknife interval.

    `weight` (G, F) >= 0 is what a block contributes, 0 where a latent never fires in it. Only
    blocks with a weight are deleted in turn, and the interval is
        value +- t(n - 1) * sqrt((G_j - 1) / G_j * sum_b (r_b - mean r)^2)
    where G_j counts them and r_b is the ratio without block b (Efron and Stein, 1981). A block
    without weight says nothing of the ratio, and a latent of few documents has blocks of very
    different weight, so the degrees of freedom come from their effective number
    n = (sum w)^2 / sum w^2 (Kish 1965; Satterthwaite's approximation), not from G_j: with G_j - 1
    intervals cover 92 to 94% instead of 95%. With fewer than two
    blocks the bounds are NaN.
    """
    total_numerator = numerator.sum(axis=0)
    total_denominator = denominator.sum(axis=0)
    active = weight > 0
    count = active.sum(axis=0).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = total_numerator / total_denominator
        left_out = (total_numerator - numerator) / (total_denominator - denominator)
        mean = np.where(active, left_out, 0.0).sum(axis=0) / count
        squares = np.where(active, (left_out - mean) ** 2, 0.0).sum(axis=0)
        error = np.sqrt((count - 1) / count * squares)
        effective = weight.sum(axis=0) ** 2 / (weight**2).sum(axis=0)
        half = stats.t.ppf(0.5 + confidence / 2, effective - 1) * error
    half = np.where(np.isfinite(half) & (count >= 2), half, np.nan)
    value = np.where(np.isfinite(value), value, np.nan)
    return Interval(value, value - half, value + half)
