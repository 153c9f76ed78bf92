"""The category whose definition and prototypes are nearest to the text on which a latent fires."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labeler.embedding.base import Embedder
from labeler.judge.answers import MAX_CATEGORIES
from labeler.judge.base import CategoryOption
from labeler.judge.none_threshold import calibrate
from taxonomy.mapping import (
    TEMPERATURE,
    CategoryIndex,
    LeafVectors,
    build_index,
    raw_similarities,
    standardise,
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
    """Categories as vectors, with the score below which a latent belongs to none of them."""

    index: CategoryIndex
    none_threshold: float
    typical_score: float
    """What a latent scores on its own category: the median category."""

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
        level = calibrate(index, prototypes, embedder)
        return cls(index, level.none_threshold, level.typical_score)

    def find(self, vectors: NDArray[np.floating], foreign_share: float) -> list[Found]:
        """Categories of a latent from the vectors (s, e) of its snippets, best first; maybe none.

        `foreign_share` is the share of its windows whose language is not English: the sentence
        model knows English best, so the score of `multilingual` is raised by that share of what
        a typical category scores on its own text.
        """
        by_snippet = standardise(raw_similarities(vectors, self.index), self.index)
        scores = by_snippet.mean(axis=0)
        if MULTILINGUAL in self.index.slugs:
            scores[self.index.slugs.index(MULTILINGUAL)] += foreign_share * self.typical_score
        shares = _softmax(np.append(scores, self.none_threshold) / TEMPERATURE)
        floor = max(self.none_threshold, float(scores.max()) - SECONDARY_MARGIN)
        best = [leaf for leaf in np.argsort(-scores, kind="stable") if scores[leaf] >= floor]
        return [
            Found(self.index.slugs[leaf], float(shares[leaf]), int(by_snippet[:, leaf].argmax()))
            for leaf in best[:MAX_CATEGORIES]
        ]


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(logits - logits.max())
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares
