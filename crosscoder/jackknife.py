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
    numerator: FloatArray, denominator: FloatArray, active: BoolArray, confidence: float = 0.95
) -> Interval:
    """Ratio of two sums over blocks (G, F), with the delete-one-block jackknife interval.

    `active` (G, F) says in which blocks a latent contributes; only these are deleted in turn,
    and the interval is value +- t(G_j - 1) * sqrt((G_j - 1) / G_j * sum_b (r_b - mean r)^2),
    where G_j counts them and r_b is the ratio without block b (Efron and Stein, 1981). A block
    in which a latent never fires says nothing of its ratio: counting it would only add degrees
    of freedom. With fewer than two active blocks the bounds are NaN.
    """
    total_numerator = numerator.sum(axis=0)
    total_denominator = denominator.sum(axis=0)
    count = active.sum(axis=0).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = total_numerator / total_denominator
        left_out = (total_numerator - numerator) / (total_denominator - denominator)
        mean = np.where(active, left_out, 0.0).sum(axis=0) / count
        squares = np.where(active, (left_out - mean) ** 2, 0.0).sum(axis=0)
        error = np.sqrt((count - 1) / count * squares)
        half = stats.t.ppf(0.5 + confidence / 2, np.maximum(count - 1, 1)) * error
    half = np.where(np.isfinite(half) & (count >= 2), half, np.nan)
    value = np.where(np.isfinite(value), value, np.nan)
    return Interval(value, value - half, value + half)
