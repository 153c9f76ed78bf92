"""The category whose definition and prototypes are nearest to the text on which a latent fires."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labeler.embedding.base import Embedder
from labeler.judge.answers import MAX_CATEGORIES
from labeler.judge.base import CategoryOption
from labeler.judge.calibration import Scale, calibrate
from taxonomy.mapping import (
    TEMPERATURE,
    CategoryIndex,
    LeafVectors,
    build_index,
    raw_similarities,
)

MULTILINGUAL = "multilingual"
"""Slug of the category that is raised by text which is not English."""
SECONDARY_MARGIN = 0.5
"""A category whose score is this close to the best one's is named as well."""


@dataclass(frozen=True)
class Found:
    """A category with its confidence and the snippet that is nearest to it."""

    slug: str
    confidence: float
    snippet: int


@dataclass(frozen=True)
class CategoryFinder:
    """Categories as vectors, with the scale on which a latent is scored."""

    index: CategoryIndex
    scale: Scale

    @classmethod
    def build(cls, options: Sequence[CategoryOption], embedder: Embedder) -> CategoryFinder:
        """Embed the options; the threshold is calibrated on their own prototypes alone."""
        texts = [option.description for option in options]
        prototypes = [text for option in options for text in option.prototypes]
        vectors = embedder.embed([*texts, *prototypes])
        ends = np.cumsum([len(options), *(len(option.prototypes) for option in options)])
        leaves = [
            LeafVectors(option.slug, vectors[row], vectors[ends[row] : ends[row + 1]])
            for row, option in enumerate(options)
        ]
        index = build_index(leaves)
        return cls(index, calibrate(index, prototypes, embedder))

    def find(self, vectors: NDArray[np.floating], foreign_share: float) -> list[Found]:
        """Categories of a latent from the vectors (s, e) of its snippets, best first; maybe none.

        The centre of the snippets is scored: what differs between them cancels out, and what they
        share remains. `foreign_share` is the share of windows whose language is not English: the
        sentence model knows English best, so the score of `multilingual` is raised by that share
        of what a latent typically scores on its own category, or of the threshold if that is more.
        """
        by_snippet = raw_similarities(vectors, self.index)
        centre = np.asarray(vectors).mean(axis=0, keepdims=True)
        scores = self.scale.scores(raw_similarities(centre, self.index)[0])
        threshold = self.scale.none_threshold
        if MULTILINGUAL in self.index.slugs:
            raised = self.index.slugs.index(MULTILINGUAL)
            scores[raised] += foreign_share * max(self.scale.typical_score, threshold)
        shares = _softmax(np.append(scores, threshold) / TEMPERATURE)
        floor = max(threshold, float(scores.max()) - SECONDARY_MARGIN)
        best = [leaf for leaf in np.argsort(-scores, kind="stable") if scores[leaf] >= floor]
        return [
            Found(self.index.slugs[leaf], float(shares[leaf]), int(by_snippet[:, leaf].argmax()))
            for leaf in best[:MAX_CATEGORIES]
        ]


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(logits - logits.max())
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares
