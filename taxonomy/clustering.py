"""Groups of like explanations: average-linkage agglomerative clustering on cosine distance.

Deterministic, and without a bucket for noise: a text that is like no other is a cluster of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from taxonomy.errors import InputError
from taxonomy.linkage import average_linkage
from taxonomy.mapping import Vectors, normalise_rows

DEFAULT_DISTANCE_THRESHOLD = 0.5
"""Mean cosine distance between two clusters from which they stay apart."""

CENTRES_AT_A_TIME = 256
"""Clusters whose nearest outsiders are looked for in one product."""


@dataclass(frozen=True)
class Clustering:
    """Cluster of each text; clusters are numbered by their first text, from 0."""

    labels: npt.NDArray[np.int64]
    """(n,) cluster of each text."""
    medoids: npt.NDArray[np.int64]
    """(n_clusters,) text with the least mean distance to its own cluster; the first of equals."""
    outsiders: tuple[tuple[int, ...], ...]
    """For each cluster the texts of other clusters nearest to its centre, nearest first."""

    @property
    def n_clusters(self) -> int:
        """Number of clusters."""
        return len(self.medoids)

    def members(self, cluster: int) -> npt.NDArray[np.int64]:
        """Texts of a cluster, in order."""
        return np.flatnonzero(self.labels == cluster)


@dataclass(frozen=True)
class ClusterSample:
    """What a name is made from: typical members, and like texts that do not belong."""

    cluster: int
    size: int
    medoid: str
    members: tuple[str, ...]
    outsiders: tuple[str, ...]


def cluster(
    vectors: npt.ArrayLike,
    distance_threshold: float | None = None,
    *,
    n_outsiders: int = 10,
) -> Clustering:
    """Cluster sentence vectors (n, e); n may be 0.

    Equal vectors are merged before: they always share a cluster, and a text that occurs often pulls
    no more than one that occurs once. Raises InputError for a threshold
    outside (0, 2], the range of a cosine distance.
    """
    threshold = DEFAULT_DISTANCE_THRESHOLD if distance_threshold is None else distance_threshold
    if not 0 < threshold <= 2:
        raise InputError(f"cluster distance {threshold} is no cosine distance; choose 0 < d <= 2")
    if np.size(vectors) == 0:
        return clustering_of(np.zeros((0, 1)), np.zeros(0, dtype=np.int64))
    labels = average_linkage(vectors).cut(threshold)
    return clustering_of(vectors, labels, n_outsiders=n_outsiders)


def clustering_of(
    vectors: npt.ArrayLike, labels: npt.NDArray[np.int64], *, n_outsiders: int = 10
) -> Clustering:
    """Describe a partition (n,) of vectors (n, e) whose clusters are 0, 1, ... without a gap."""
    if len(labels) == 0:
        return Clustering(labels=labels, medoids=labels, outsiders=())
    rows = normalise_rows(vectors)
    centres = cluster_centres(rows, labels)
    return Clustering(
        labels=labels,
        medoids=_medoids(rows, labels, centres),
        outsiders=_outsiders(rows, labels, centres, n_outsiders),
    )


def sample_clusters(
    clustering: Clustering, texts: Sequence[str], *, n_members: int = 10, n_outsiders: int = 5
) -> list[ClusterSample]:
    """Return what names each cluster: its medoid first, then other distinct members in order."""
    if len(texts) != len(clustering.labels):
        raise InputError(f"{len(texts)} texts for a clustering of {len(clustering.labels)}")
    samples = []
    for number, medoid in enumerate(clustering.medoids):
        inside = clustering.members(number)
        members = dict.fromkeys([texts[medoid], *(texts[index] for index in inside)])
        outside = dict.fromkeys(texts[index] for index in clustering.outsiders[number])
        samples.append(
            ClusterSample(
                cluster=number,
                size=len(inside),
                medoid=texts[medoid],
                members=tuple(members)[:n_members],
                outsiders=tuple(outside)[:n_outsiders],
            )
        )
    return samples


def name_clusters(
    clustering: Clustering, texts: Sequence[str], naming: Callable[[ClusterSample], str]
) -> list[str]:
    """Ask `naming` for the name of each cluster and return distinct names, in cluster order.

    A name that is empty is replaced by the medoid's text; one that is taken gets a number.
    """
    names: list[str] = []
    taken: set[str] = set()
    for sample in sample_clusters(clustering, texts):
        wanted = " ".join(naming(sample).split()) or sample.medoid
        name, number = wanted, 2
        while name.casefold() in taken:
            name, number = f"{wanted} ({number})", number + 1
        taken.add(name.casefold())
        names.append(name)
    return names


def cluster_centres(rows: Vectors, labels: npt.NDArray[np.int64]) -> Vectors:
    """Mean vectors (C, e); the mean cosine of a text to a cluster is its product with this."""
    sums = np.zeros((int(labels.max()) + 1, rows.shape[1]))
    np.add.at(sums, labels, rows)
    result: Vectors = sums / np.bincount(labels)[:, None]
    return result


def _medoids(
    rows: Vectors, labels: npt.NDArray[np.int64], centres: Vectors
) -> npt.NDArray[np.int64]:
    closeness = np.round(np.einsum("ne,ne->n", rows, centres[labels]), 12)
    order = np.lexsort((np.arange(len(rows)), -closeness, labels))
    _, first = np.unique(labels[order], return_index=True)
    return order[first].astype(np.int64)


def _outsiders(
    rows: Vectors, labels: npt.NDArray[np.int64], centres: Vectors, n_outsiders: int
) -> tuple[tuple[int, ...], ...]:
    found: list[tuple[int, ...]] = []
    for first in range(0, len(centres), CENTRES_AT_A_TIME):
        block = np.round(centres[first : first + CENTRES_AT_A_TIME] @ rows.T, 12)
        for offset, closeness in enumerate(block):
            found.append(_nearest(closeness, labels == first + offset, n_outsiders))
    return tuple(found)


def _nearest(closeness: Vectors, excluded: npt.NDArray[np.bool_], n_wanted: int) -> tuple[int, ...]:
    """Positions of the largest values (n,) that are not excluded; the first of equals first."""
    closeness[excluded] = -np.inf
    n = min(n_wanted, len(closeness) - int(excluded.sum()))
    if n == 0:
        return ()
    least = np.partition(closeness, len(closeness) - n)[len(closeness) - n]
    candidates = np.flatnonzero(closeness >= least)
    order = np.argsort(-closeness[candidates], kind="stable")[:n]
    return tuple(int(index) for index in candidates[order])
