"""The first level of a taxonomy: groups of its leaves."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.metrics import silhouette_score

from taxonomy.linkage import average_linkage
from taxonomy.mapping import normalise_rows

LEAST_LEAVES = 6
"""Fewer leaves need no level above them."""
MOST_GROUPS = 10
"""More groups than this are no overview."""


def group_leaves(
    vectors: npt.ArrayLike, *, most_groups: int = MOST_GROUPS
) -> npt.NDArray[np.int64] | None:
    """Group (k,) of each leaf (k, e), or None where a level above the leaves says nothing.

    Of the cuts of the leaves' average-linkage tree into 2 to `most_groups` groups, and at most
    half as many as leaves, the one with the best mean silhouette (Rousseeuw 1987) is taken.
    """
    rows = normalise_rows(vectors)
    most = min(most_groups, len(rows) // 2)
    if len(rows) < LEAST_LEAVES or most < 2:
        return None
    tree = average_linkage(rows)
    distances = np.clip(1.0 - rows @ rows.T, 0.0, 2.0)
    np.fill_diagonal(distances, 0.0)
    best: tuple[float, npt.NDArray[np.int64]] | None = None
    for height in dict.fromkeys(float(height) for height in tree.heights):
        if not 0 < height <= 2:
            continue
        labels = tree.cut(height)
        if not 2 <= labels.max() + 1 <= most:
            continue
        quality = float(silhouette_score(distances, labels, metric="precomputed"))
        if best is None or quality > best[0]:
            best = (quality, labels)
    return None if best is None else best[1]
