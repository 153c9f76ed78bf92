"""The distance at which explanations are clustered, chosen by how well clusters come back.

Several subsamples are clustered, each by itself. A distance is good where two subsamples put the
texts they share into the same clusters (adjusted mutual information, Vinh et al. 2010) and where
most texts have company at all; the score is the product of the two. A two-level taxonomy is stable
at both of its levels, so of the distances that score about as well as the best one the least is
taken: the finest clusters that the texts bear.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import adjusted_mutual_info_score

from taxonomy.clustering import Dendrogram, average_linkage
from taxonomy.errors import InputError
from taxonomy.mapping import Vectors, normalise_rows

TOLERANCE = 0.06
"""Scores this close to the best one count as equal to it."""
N_THRESHOLDS = 24
MOST_TEXTS = 1000
"""Texts that the sweep looks at: the distance between like texts does not depend on how many."""
LEAST_TEXTS = 8
"""Below this no subsample can say anything."""


@dataclass(frozen=True)
class SweepPoint:
    """How well the clusters at one distance come back."""

    threshold: float
    n_clusters: int
    """Clusters of all texts of the sweep, lone ones included."""
    agreement: float
    """Mean adjusted mutual information of two subsamples on the texts they share."""
    clustered_share: float
    """Share of texts in clusters of at least `min_members`."""

    @property
    def score(self) -> float:
        """What the choice goes by."""
        return self.agreement * self.clustered_share


@dataclass(frozen=True)
class ThresholdSweep:
    """The distances that were tried, rising, and the one that was chosen."""

    points: tuple[SweepPoint, ...]
    threshold: float
    seed: int

    @property
    def chosen(self) -> SweepPoint:
        """The point of the chosen distance."""
        return next(point for point in self.points if point.threshold == self.threshold)


def sweep_thresholds(
    vectors: npt.ArrayLike,
    *,
    seed: int,
    min_members: int = 3,
    n_subsamples: int = 6,
    share: float = 0.8,
    thresholds: Sequence[float] | None = None,
) -> ThresholdSweep:
    """Try distances on subsamples of (n, e) vectors; `thresholds` default to the tree's heights.

    Raises InputError for fewer than 8 different texts, or subsamples that share too little.
    """
    if n_subsamples < 2 or not 0.5 < share < 1:
        raise InputError("a threshold sweep needs 2 subsamples or more, of over half of the texts")
    generator = np.random.default_rng(seed)
    rows = np.unique(normalise_rows(vectors), axis=0)
    if len(rows) < LEAST_TEXTS:
        raise InputError(
            f"{len(rows)} different texts are too few to choose a cluster distance; "
            f"give one, or at least {LEAST_TEXTS} texts"
        )
    if len(rows) > MOST_TEXTS:
        rows = rows[np.sort(generator.choice(len(rows), MOST_TEXTS, replace=False))]
    tree = average_linkage(rows)
    samples = [
        np.sort(generator.choice(len(rows), round(share * len(rows)), replace=False))
        for _ in range(n_subsamples)
    ]
    trees = [average_linkage(rows[sample]) for sample in samples]
    tried = thresholds if thresholds is not None else default_thresholds(tree)
    points = tuple(
        _point(float(threshold), tree, samples, trees, min_members) for threshold in tried
    )
    best = max(point.score for point in points)
    chosen = next(point for point in points if point.score >= best - TOLERANCE)
    return ThresholdSweep(points, chosen.threshold, seed)


def default_thresholds(tree: Dendrogram) -> list[float]:
    """Distances from the one that merged half of the texts to the one that leaves two groups."""
    heights = tree.heights
    low, high = float(np.quantile(heights, 0.5)), float(heights[-1])
    steps = np.linspace(low, high, N_THRESHOLDS)
    return [float(step) for step in dict.fromkeys(np.clip(steps, 1e-6, 2.0))]


def _point(
    threshold: float,
    tree: Dendrogram,
    samples: Sequence[npt.NDArray[np.int64]],
    trees: Sequence[Dendrogram],
    min_members: int,
) -> SweepPoint:
    cuts = [each.cut(threshold) for each in trees]
    agreements = []
    for first in range(len(samples)):
        second = (first + 1) % len(samples)
        _, a, b = np.intersect1d(samples[first], samples[second], return_indices=True)
        agreements.append(adjusted_mutual_info_score(cuts[first][a], cuts[second][b]))
    whole = tree.cut(threshold)
    return SweepPoint(
        threshold=threshold,
        n_clusters=int(whole.max()) + 1,
        agreement=float(np.mean(agreements)),
        clustered_share=float(np.mean([_share_in_company(cut, min_members) for cut in cuts])),
    )


def _share_in_company(labels: npt.NDArray[np.int64], min_members: int) -> float:
    return float((np.bincount(labels)[labels] >= min_members).mean())


def centred(vectors: npt.ArrayLike) -> Vectors:
    """Unit rows (n, e) without their mean, which is what all explanations share: their style."""
    rows = normalise_rows(vectors)
    if len(rows) < LEAST_TEXTS:
        return rows
    return normalise_rows(rows - rows.mean(axis=0))
