"""The average-linkage tree of sentence vectors: one linkage, cut at as many distances as wanted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage

from taxonomy.errors import InputError
from taxonomy.mapping import Vectors, normalise_rows

ROWS_AT_A_TIME = 512
"""Rows whose distances are computed in one product."""


@dataclass(frozen=True)
class Dendrogram:
    """Which groups of distinct vectors merge at which mean cosine distance."""

    merges: Vectors
    """(d - 1, 4) in SciPy's layout for d distinct vectors, by rising distance; d may be 1."""
    distinct: npt.NDArray[np.int64]
    """(n,) distinct vector of each text."""

    @property
    def heights(self) -> Vectors:
        """(d - 1,) rising distances at which groups merge."""
        result: Vectors = self.merges[:, 2]
        return result

    def cut(self, threshold: float) -> npt.NDArray[np.int64]:
        """Clusters (n,), numbered by their first text; groups `threshold` or more apart stay so.

        Raises InputError for a threshold outside (0, 2], the range of a cosine distance.
        """
        if not 0 < threshold <= 2:
            raise InputError(
                f"cluster distance {threshold} is no cosine distance; choose 0 < d <= 2"
            )
        if len(self.merges) == 0:
            return np.zeros(len(self.distinct), dtype=np.int64)
        below = float(np.nextafter(threshold, 0.0))
        labels = fcluster(self.merges, below, criterion="distance")
        return number_by_first(np.asarray(labels, dtype=np.int64)[self.distinct])


def average_linkage(vectors: npt.ArrayLike) -> Dendrogram:
    """The tree of (n, e) vectors, n at least 1, by mean cosine distance between groups.

    Equal vectors are one: they always share a cluster, and a text that occurs often pulls no more
    than one that occurs once. Memory is two triangles of float64 distances, 16 n^2 / 2 bytes.
    """
    rows = normalise_rows(vectors)
    distinct, inverse = np.unique(rows, axis=0, return_inverse=True)
    if len(distinct) == 1:
        merges: Vectors = np.zeros((0, 4))
    else:
        merges = linkage(_condensed_distances(distinct), method="average")
    return Dendrogram(merges, np.asarray(inverse, dtype=np.int64).ravel())


def number_by_first(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Renumber clusters (n,) by the position of their first text."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    result: npt.NDArray[np.int64] = rank[inverse.ravel()]
    return result


def _condensed_distances(rows: Vectors) -> Vectors:
    """Cosine distances of unit rows (d, e) as one triangle (d * (d - 1) / 2,), row by row.

    The square of distances never exists: at 10,000 texts it alone would take 800 MB.
    """
    n = len(rows)
    triangle = np.empty(n * (n - 1) // 2)
    at = 0
    for first in range(0, n, ROWS_AT_A_TIME):
        block = rows[first : first + ROWS_AT_A_TIME] @ rows[first:].T
        np.subtract(1.0, block, out=block)
        np.clip(block, 0.0, 2.0, out=block)
        for row, values in enumerate(block):
            right = values[row + 1 :]
            triangle[at : at + len(right)] = right
            at += len(right)
    return triangle
