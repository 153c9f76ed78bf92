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
    relative_shift: float | None = None
    """Mean shift less the mean shift of all other latents that are counted."""
    relative_shift_low: float | None = None
    relative_shift_high: float | None = None
    relative_shift_p: float = 1.0
    relative_shift_q: float | None = None


def mean_shifts(
    shifts: FloatArray,
    members: BoolArray,
    levels: list[int],
    counted: BoolArray | None = None,
    alpha: float = ALPHA,
) -> list[MeanShift]:
    """The mean shift of every category, as it is and relative to all other latents.

    `shifts` (1 + G, F) are the shift of each latent, and the same without each block of documents;
    NaN = unknown. `members` (F, C) says which latents a category has, `levels` (C,) its level,
    `counted` (F,) which latents there are: all of them unless given.

    Latents share documents, and documents share latents, so the variance is that of two-way
    clustering (Cameron, Gelbach and Miller 2011): jackknife over blocks of documents, plus
    jackknife over latents, less the part that both contain, each latent's own jackknife variance.
    Student's t has the smaller of both numbers of clusters less one.
    """
    known = np.isfinite(shifts).all(axis=0) & (True if counted is None else counted)
    found = []
    for member in members.T:
        own, others = shifts[:, known & member], shifts[:, known & ~member]
        absolute, relative = _estimate([own], alpha), _estimate([own, others], alpha)
        found.append(MeanShift(own.shape[1], *absolute, None, *relative))
    of_means = adjust_by_level(
        levels, [None if each.mean_shift is None else each.mean_shift_p for each in found]
    )
    of_relative = adjust_by_level(
        levels, [None if each.relative_shift is None else each.relative_shift_p for each in found]
    )
    return [
        replace(
            each,
            mean_shift_q=None if each.mean_shift is None else mean_q,
            relative_shift_q=None if each.relative_shift is None else relative_q,
        )
        for each, mean_q, relative_q in zip(found, of_means, of_relative, strict=True)
    ]


def _estimate(
    sets: list[FloatArray], alpha: float
) -> tuple[float | None, float | None, float | None, float]:
    """Mean of the first set of latents less that of the second, low, high and p.

    Each set is (1 + G, n): the shifts, and without each block.
    """
    sizes = [each.shape[1] for each in sets]
    n_blocks = len(sets[0]) - 1
    if min(sizes) < 2 or n_blocks < 2:
        return None, None, None, 1.0
    means = [each.mean(axis=1) for each in sets]
    mean = means[0] if len(sets) == 1 else means[0] - means[1]
    factor = (n_blocks - 1) / n_blocks
    of_documents = factor * _squares(mean[1:])
    of_latents = sum(float(each[0].var(ddof=1)) / n for each, n in zip(sets, sizes, strict=True))
    of_cells = sum(factor * _squares(each[1:]) / n**2 for each, n in zip(sets, sizes, strict=True))
    # Negative by chance where one of the two ways says nothing; the larger one then stands alone.
    variance = max(of_documents + of_latents - of_cells, of_documents, of_latents)
    freedom = min(n_blocks, sizes[0]) - 1
    error = float(np.sqrt(variance))
    half = float(stats.t.isf(alpha / 2, freedom)) * error
    value = float(mean[0])
    p = float(2 * stats.t.sf(abs(value) / error, freedom)) if error > 0 else float(value == 0)
    return value, value - half, value + half, p


def _squares(values: FloatArray) -> float:
    """Sum of squared deviations from the mean over the first axis."""
    return float(((values - values.mean(axis=0)) ** 2).sum())
