"""The mean strength shift of a category's latents, with an interval from documents and latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from taxonomy.counts import ALPHA
from taxonomy.intervals import adjust_by_level
from taxonomy.over_seeds import SeedError

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
    n_shifts_alike: int | None = None
    """Seeds whose own relative shift has the sign of their mean; None for one seed."""


@dataclass(frozen=True)
class SeedShifts:
    """What the mean shifts of one seed's dictionary of F latents are made of."""

    shifts: FloatArray
    """(1 + G, F) shift of each latent, and the same without each block of documents; NaN =
    unknown."""
    members: BoolArray
    """(F, C) the latents of each category."""
    counted: BoolArray
    """(F,) the latents that there are."""


def mean_shifts(
    shifts: FloatArray,
    members: BoolArray,
    levels: list[int],
    counted: BoolArray | None = None,
    alpha: float = ALPHA,
) -> list[MeanShift]:
    """The mean shift of every category, as it is and relative to all other latents.

    `shifts`, `members` and `counted` as in `SeedShifts`, `levels` (C,) the categories' levels; all
    latents are there unless `counted` says which.

    Latents share documents, and documents share latents, so the variance is that of two-way
    clustering (Cameron, Gelbach and Miller 2011): jackknife over blocks of documents, plus
    jackknife over latents, less the part that both contain, each latent's own jackknife variance.
    Student's t has the smaller of both numbers of clusters less one.
    """
    there = np.ones(shifts.shape[1], dtype=bool) if counted is None else counted
    return mean_shifts_over_seeds([SeedShifts(shifts, members, there)], levels, alpha)


def mean_shifts_over_seeds(
    seeds: Sequence[SeedShifts], levels: list[int], alpha: float = ALPHA
) -> list[MeanShift]:
    """The mean over the seeds of each category's mean shift, by the seeds that have two latents.

    A block holds the same documents in every seed, so the jackknife over blocks is that of the mean
    over seeds: more seeds are no more text. The jackknife over latents is that of a mean seed: the
    seeds' latents may be the same directions, found again (Borenstein et al. 2009, chapter 24,
    r = 1). The variance between m seeds, over m, is added; it has m - 1 degrees of freedom
    (`SeedError`).
    """
    known = [np.isfinite(seed.shifts).all(axis=0) & seed.counted for seed in seeds]
    found = []
    for category in range(len(levels)):
        own, others = [], []
        for seed, there in zip(seeds, known, strict=True):
            member = seed.members[:, category]
            own.append([seed.shifts[:, there & member]])
            others.append([*own[-1], seed.shifts[:, there & ~member]])
        relative = _estimate(others, alpha)
        found.append(
            MeanShift(
                sum(sets[0].shape[1] for sets in own),
                *_estimate(own, alpha)[:4],
                None,
                *relative[:4],
                None,
                relative[4] if len(seeds) > 1 else None,
            )
        )
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
    seeds: list[list[FloatArray]], alpha: float
) -> tuple[float | None, float | None, float | None, float, int]:
    """Mean of the first set of latents less that of the second, low, high, p, seeds of its sign.

    Each set of a seed is (1 + G, n): the shifts, and without each block.
    """
    used = [sets for sets in seeds if min(each.shape[1] for each in sets) >= 2]
    if not used or len(used[0][0]) - 1 < 2:
        return None, None, None, 1.0, 0
    n_blocks, n_seeds = len(used[0][0]) - 1, len(used)
    means = np.stack([_difference_of_means(sets) for sets in used])
    values, mean = means[:, 0], means.mean(axis=0)
    factor = (n_blocks - 1) / n_blocks
    of_documents = factor * _squares(mean[1:])
    every = [each for sets in used for each in sets]
    of_latents = sum(float(each[0].var(ddof=1)) / each.shape[1] for each in every) / n_seeds
    of_cells = sum(factor * _squares(each[1:]) / each.shape[1] ** 2 for each in every) / n_seeds
    # Negative by chance where one of the two ways says nothing; the larger one then stands alone.
    within = max(of_documents + of_latents - of_cells, of_documents, of_latents)
    between = float(values.var(ddof=1)) / n_seeds if n_seeds > 1 else 0.0
    n_own = sum(sets[0].shape[1] for sets in used) / n_seeds
    error = SeedError(within, between, n_seeds, min(n_blocks, n_own) - 1)
    value, half = float(mean[0]), error.reach(alpha)
    p = error.p_of(value) if error.error > 0 else float(value == 0)
    return value, value - half, value + half, p, int((np.sign(values) == np.sign(value)).sum())


def _difference_of_means(sets: list[FloatArray]) -> FloatArray:
    """(1 + G,)"""
    means = [each.mean(axis=1) for each in sets]
    difference: FloatArray = means[0] if len(means) == 1 else means[0] - means[1]
    return difference


def _squares(values: FloatArray) -> float:
    """Sum of squared deviations from the mean over the first axis."""
    return float(((values - values.mean(axis=0)) ** 2).sum())
