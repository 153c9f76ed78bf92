"""Which texts an explanation is about, by sentence vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from labeler.embedding.base import Embedder


def alike(explanation: str, texts: Sequence[str], embedder: Embedder) -> list[bool]:
    """Whether each text belongs to the group that is nearer to the explanation.

    The cosine similarities are split in two where the variance between the groups is largest (Otsu
    1979). The split does not know how many texts are right. It always finds some, except where all
    similarities are equal: then no text is alike.
    """
    if not texts:
        return []
    vectors = embedder.embed([explanation, *texts])
    similarities = np.asarray(vectors[1:] @ vectors[0], dtype=np.float64)
    return [bool(value) for value in similarities > split_point(similarities)]


def split_point(values: NDArray[np.float64]) -> float:
    """The value above which Otsu's upper group begins; the largest where all are equal."""
    ordered = np.sort(values)
    sizes = np.arange(1, len(ordered))
    lower = np.cumsum(ordered)[:-1] / sizes
    upper = (ordered.sum() - np.cumsum(ordered)[:-1]) / (len(ordered) - sizes)
    between = sizes * (len(ordered) - sizes) * (upper - lower) ** 2
    # Values that are equal up to rounding belong to one group.
    distinct = np.diff(ordered) > 1e-9
    if not distinct.any():
        return float(ordered[-1])
    return float(ordered[int(np.argmax(np.where(distinct, between, -1.0)))])
