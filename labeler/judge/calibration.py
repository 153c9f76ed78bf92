"""What a score of the evidence judge means, from the taxonomy's own prototypes alone.

Real evidence is wordier than a prototype: beside what the latent fires on, a sentence speaks of
something else. So each prototype is joined with a prototype of another category, its carrier, and
the centre of a category's carried prototypes stands for one latent. Such latents say three things:

- how near a category is to latents of the other categories: their mean and spread are the zero
  and the unit of its score, because some categories are near to everything;
- what latents score on their own category, half of its prototypes against the other half;
- what latents score elsewhere, which is what a latent scores that belongs nowhere. The threshold of
  `none` tells the last two apart with the best balanced accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labeler.embedding.base import Embedder
from taxonomy.calibration import calibrate_none_threshold, threshold_from_labelled
from taxonomy.mapping import CategoryIndex, blend, normalise_rows

MIN_CATEGORIES = 10
"""Categories with two prototypes or more below which single prototypes must do."""
SPREAD_FLOOR = 0.5
"""Least spread of a category as a share of the median one."""
_STEP = 5
"""Carriers of one category come from categories this far apart, so that they differ."""


@dataclass(frozen=True)
class Scale:
    """The zero and the unit of each category's score, and two marks on it."""

    level: NDArray[np.float64]
    """(C,) mean similarity of foreign latents."""
    spread: NDArray[np.float64]
    """(C,) standard deviation of it."""
    none_threshold: float
    typical_score: float
    """Median over categories of what a latent scores on its own one."""

    def scores(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Similarities (..., C) as standard deviations above foreign latents."""
        result: NDArray[np.float64] = (raw - self.level) / self.spread
        return result


def calibrate(index: CategoryIndex, prototypes: Sequence[str], embedder: Embedder) -> Scale:
    """Find the scale; `prototypes` are the texts of `index.prototypes`, in their order."""
    groups = [np.flatnonzero(index.owners == leaf) for leaf in range(len(index.slugs))]
    usable = [leaf for leaf, rows in enumerate(groups) if len(rows) >= 2]
    if len(usable) < MIN_CATEGORIES:
        threshold = calibrate_none_threshold(index).threshold
        return Scale(index.level, index.spread, threshold, max(threshold, 0.0))
    latents = _Latents(index, prototypes, groups, embedder)
    foreign = latents.foreign(usable)
    level = np.nanmean(foreign, axis=0)
    spread = np.nanstd(foreign, axis=0)
    floor = SPREAD_FLOOR * float(np.median(spread))
    spread = np.maximum(spread, floor if floor > 0 else 1.0)
    own = [(latents.own(leaf) - level[leaf]) / spread[leaf] for leaf in usable]
    elsewhere = np.nanmax((foreign - level) / spread, axis=1)
    best = np.maximum(own, elsewhere)
    threshold = threshold_from_labelled(
        [*best, *elsewhere], [True] * len(best) + [False] * len(elsewhere)
    )
    return Scale(level, spread, threshold, float(np.median(own)))


class _Latents:
    """One latent for each category: its prototypes with their carriers, embedded."""

    def __init__(
        self,
        index: CategoryIndex,
        prototypes: Sequence[str],
        groups: Sequence[NDArray[np.int64]],
        embedder: Embedder,
    ) -> None:
        self._index = index
        self._groups = groups
        self._carriers = np.array(
            [_carrier(row, int(index.owners[row]), groups) for row in range(len(prototypes))]
        )
        texts = [
            f"{prototype} {prototypes[carrier]}"
            for prototype, carrier in zip(prototypes, self._carriers, strict=True)
        ]
        self._vectors = normalise_rows(embedder.embed(texts))

    def foreign(self, usable: Sequence[int]) -> NDArray[np.float64]:
        """Similarity (n_usable, C) of each latent to every category, NaN for its own."""
        similarities = np.full((len(usable), len(self._groups)), np.nan)
        for row, latent in enumerate(usable):
            rows = self._groups[latent]
            for leaf in range(len(self._groups)):
                if leaf != latent:
                    similarities[row, leaf] = self._similarity(rows, leaf)
        return similarities

    def own(self, leaf: int) -> float:
        """Similarity of a latent to its own category, half of the prototypes against the rest."""
        rows = self._groups[leaf]
        halves = (rows[::2], rows[1::2])
        return float(np.mean([self._similarity(half, leaf) for half in halves]))

    def _similarity(self, rows: NDArray[np.int64], leaf: int) -> float:
        """Similarity of the centre of some carried prototypes to what they do not contain."""
        centre = normalise_rows(self._vectors[rows].mean(axis=0, keepdims=True))
        known = np.setdiff1d(self._groups[leaf], np.concatenate([rows, self._carriers[rows]]))
        to_definition = centre @ self._index.definitions[leaf]
        to_prototypes = centre @ self._index.prototypes[known].T
        return float(blend(to_definition, to_prototypes, self._index)[0])


def _carrier(row: int, leaf: int, groups: Sequence[NDArray[np.int64]]) -> int:
    """A prototype of another category, a different one for each prototype of a category."""
    place = int(np.flatnonzero(groups[leaf] == row)[0])
    distance = 1 + place * _STEP % (len(groups) - 1)
    for further in range(len(groups)):
        other = (leaf + distance + further) % len(groups)
        if other != leaf and len(groups[other]) > 0:
            return int(groups[other][place % len(groups[other])])
    raise ValueError("no other category has a prototype")
