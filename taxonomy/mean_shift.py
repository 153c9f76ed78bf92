"""The mean strength shift of a category's latents, with an interval from documents and latents."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from taxonomy.counts import ALPHA
from taxonomy.intervals import adjust_by_level

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class MeanShift:
    """Mean shift of the latents of one category; None = fewer than two latents."""

    n_shifted: int
    """Latents of the category whose shift is known."""
    mean_shift: float | None = None
    mean_shift_low: float | None = None
    mean_shift_high: float | None = None
    mean_shift_p: float = 1.0
    mean_shift_q: float | None = None
    """Benjamini-Hochberg over the categories of the same level."""


def mean_shifts(
    shifts: FloatArray, members: BoolArray, levels: list[int], alpha: float = ALPHA
) -> list[MeanShift]:
    """The mean shift of every category.

    `shifts` (1 + G, F) are the shift of each latent, and the same without each block of documents;
    NaN = unknown. `members` (F, C) says which latents a category has, `levels` (C,) its level.

    Latents share documents, and documents share latents, so the variance is that of two-way
    clustering (Cameron, Gelbach and Miller 2011): jackknife over blocks of documents, plus
    jackknife over latents, less the part that both contain, each latent's own jackknife variance.
    Student's t has the smaller of both numbers of clusters less one.
    """
    found = [_mean_shift(shifts[:, members[:, c]], alpha) for c in range(members.shape[1])]
    q_values = adjust_by_level(
        levels, [None if each.mean_shift is None else each.mean_shift_p for each in found]
    )
    return [
        each if each.mean_shift is None else replace(each, mean_shift_q=q_value)
        for each, q_value in zip(found, q_values, strict=True)
    ]


def _mean_shift(shifts: FloatArray, alpha: float) -> MeanShift:
    shifts = shifts[:, np.isfinite(shifts).all(axis=0)]
    value, left_out = shifts[0], shifts[1:]
    n_latents, n_blocks = len(value), len(left_out)
    if n_latents < 2 or n_blocks < 2:
        return MeanShift(n_latents)
    mean = float(value.mean())
    factor = (n_blocks - 1) / n_blocks
    of_documents = factor * _squares(left_out.mean(axis=1))
    of_latents = float(value.var(ddof=1)) / n_latents
    of_cells = factor * _squares(left_out) / n_latents**2
    # Negative by chance where one of the two ways says nothing; the larger one then stands alone.
    variance = max(of_documents + of_latents - of_cells, of_documents, of_latents)
    freedom = min(n_blocks, n_latents) - 1
    error = float(np.sqrt(variance))
    half = float(stats.t.isf(alpha / 2, freedom)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, freedom)) if error > 0 else float(mean == 0)
    return MeanShift(n_latents, mean, mean - half, mean + half, p)


def _squares(values: FloatArray) -> float:
    """Sum of squared deviations from the mean over the first axis."""
    return float(((values - values.mean(axis=0)) ** 2).sum())
