"""Where `none` begins for the evidence judge, from the taxonomy's own prototypes.

Real evidence is wordier than a prototype: beside what the latent fires on, a sentence speaks of
something else. So each prototype is joined with a prototype of another category, its carrier, and
the prototypes of a category with their carriers stand for the evidence of one latent. Scored with
them left out of the index, such latents belong to their category; scored without their whole
category, they belong nowhere. The threshold tells the two apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labeler.embedding.base import Embedder
from taxonomy.calibration import calibrate_none_threshold, threshold_from_labelled
from taxonomy.mapping import CategoryIndex, blend, normalise_rows, raw_similarities, standardise

MIN_CATEGORIES = 10
"""Categories with two prototypes or more below which the plain calibration is used."""
_STEP = 5
"""Carriers of one category come from categories this far apart, so that they differ."""


@dataclass(frozen=True)
class Level:
    """What scores mean under one taxonomy and one embedding."""

    none_threshold: float
    typical_score: float
    """Median over categories of what a latent scores on its own category."""


def calibrate(index: CategoryIndex, prototypes: Sequence[str], embedder: Embedder) -> Level:
    """Find the level; `prototypes` are the texts of `index.prototypes`, in their order."""
    groups = [np.flatnonzero(index.owners == leaf) for leaf in range(len(index.slugs))]
    usable = [leaf for leaf, rows in enumerate(groups) if len(rows) >= 2]
    if len(usable) < MIN_CATEGORIES:
        threshold = calibrate_none_threshold(index).threshold
        return Level(threshold, max(threshold, 0.0))
    scores = _carried_scores(index, prototypes, groups, embedder)
    own, elsewhere = [], []
    for leaf in usable:
        mean = scores[groups[leaf]].mean(axis=0)
        own.append(float(mean[leaf]))
        elsewhere.append(float(np.delete(mean, leaf).max()))
    best = [max(pair) for pair in zip(own, elsewhere, strict=True)]
    threshold = threshold_from_labelled(
        [*best, *elsewhere], [True] * len(best) + [False] * len(elsewhere)
    )
    return Level(threshold, float(np.median(own)))


def _carried_scores(
    index: CategoryIndex,
    prototypes: Sequence[str],
    groups: Sequence[NDArray[np.int64]],
    embedder: Embedder,
) -> NDArray[np.float64]:
    """Scores (P, C) of every prototype with its carrier, both left out of the index."""
    carriers = [_carrier(row, int(index.owners[row]), groups) for row in range(len(prototypes))]
    texts = [f"{prototypes[row]} {prototypes[carrier]}" for row, carrier in enumerate(carriers)]
    vectors = normalise_rows(embedder.embed(texts))
    raw = raw_similarities(vectors, index)
    to_definitions = vectors @ index.definitions.T
    to_prototypes = vectors @ index.prototypes.T
    for row, carrier in enumerate(carriers):
        for left_out in (row, carrier):
            leaf = index.owners[left_out]
            others = index.owners == leaf
            others[[row, carrier]] = False
            raw[row, leaf] = blend(
                to_definitions[row : row + 1, leaf], to_prototypes[row : row + 1, others], index
            )[0]
    return standardise(raw, index)


def _carrier(row: int, leaf: int, groups: Sequence[NDArray[np.int64]]) -> int:
    """A prototype of another category, a different one for each prototype of a category."""
    place = int(np.flatnonzero(groups[leaf] == row)[0])
    distance = 1 + place * _STEP % (len(groups) - 1)
    for further in range(len(groups)):
        other = (leaf + distance + further) % len(groups)
        if other != leaf and len(groups[other]) > 0:
            return int(groups[other][place % len(groups[other])])
    raise ValueError("no other category has a prototype")
