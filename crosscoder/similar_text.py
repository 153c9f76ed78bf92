"""Silent documents that use the very words a latent fires on: the hard negatives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crosscoder.document_tokens import DocumentTokens


@dataclass(frozen=True)
class FiringTokens:
    """How much a latent's strongest windows activate on each token of the vocabulary."""

    token_ids: NDArray[np.int64]
    """(n,) ascending."""
    weight: NDArray[np.float64]
    """(n,) summed activation, positive."""

    @classmethod
    def of(cls, windows: Sequence[tuple[NDArray[np.int32], NDArray[np.float32]]]) -> FiringTokens:
        """From the token ids and activations of each window."""
        ids = np.concatenate([tokens for tokens, _ in windows]).astype(np.int64)
        activation = np.concatenate([values for _, values in windows]).astype(np.float64)
        token_ids, place = np.unique(ids[activation > 0], return_inverse=True)
        weight = np.bincount(place, activation[activation > 0], len(token_ids))
        return cls(token_ids, weight.astype(np.float64))


@dataclass(frozen=True)
class SimilarDocument:
    """A silent document with words on which the latent fires elsewhere."""

    document: int
    position: int
    """The token of the largest weight among those that take part."""


def similar_documents(
    firing: FiringTokens, pool: Sequence[int], texts: Mapping[int, DocumentTokens]
) -> Iterator[SimilarDocument]:
    """Documents of the pool that share firing tokens, the largest shared weight first.

    The score is the weight of the distinct shared tokens; ties go to the earlier document.
    """
    scored: list[tuple[float, int, int]] = []
    for document in pool:
        text = texts[document]
        unmasked = np.flatnonzero(text.mask)
        ids = text.token_ids[unmasked].astype(np.int64)
        if len(ids) == 0 or len(firing.token_ids) == 0:
            continue
        at = np.minimum(np.searchsorted(firing.token_ids, ids), len(firing.token_ids) - 1)
        weight = np.where(firing.token_ids[at] == ids, firing.weight[at], 0.0)
        score = float(firing.weight[np.unique(at[weight > 0])].sum())
        if score > 0:
            scored.append((-score, document, int(unmasked[weight.argmax()])))
    for _, document, position in sorted(scored):
        yield SimilarDocument(document, position)
