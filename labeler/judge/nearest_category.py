"""Finds the categories nearest to the texts on which a latent fires, with confidences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labeler.embedding.base import Embedder
from labeler.judge.answers import MAX_CATEGORIES
from labeler.judge.base import CategoryOption
from taxonomy.mapping import (
    TEMPERATURE,
    CategoryIndex,
    LeafVectors,
    blend,
    build_index,
    calibrate_none_threshold,
    normalise_rows,
    raw_similarities,
    threshold_from_labelled,
)
from taxonomy.teaching_order import doubt_of

MIN_CATEGORIES = 10
"""Fewest categories with two or more prototypes for a calibration on carried prototypes."""
SPREAD_FLOOR = 0.5
"""Smallest spread of a category, as a share of the median spread."""
_STEP = 5
"""Distance between the categories that a category's carriers come from, so that they differ."""


@dataclass(frozen=True)
class Scale:
    """Normalisation of each category's score, with two reference values."""

    level: NDArray[np.float64]
    """(C,) mean similarity of latents of other categories."""
    spread: NDArray[np.float64]
    """(C,) standard deviation of that similarity."""
    none_threshold: float
    typical_score: float
    """Median over categories of a latent's score on its own category."""

    def scores(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Similarities (..., C) in standard deviations above latents of other categories."""
        result: NDArray[np.float64] = (raw - self.level) / self.spread
        return result


def calibrate(index: CategoryIndex, prototypes: Sequence[str], embedder: Embedder) -> Scale:
    """Calibrate the scale; `prototypes` are the texts of `index.prototypes`, in their order."""
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
    """A simulated latent for each category: its prototypes with their carriers, embedded."""

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
        """Similarity of a latent to its own category: half of its prototypes against the rest."""
        rows = self._groups[leaf]
        halves = (rows[::2], rows[1::2])
        return float(np.mean([self._similarity(half, leaf) for half in halves]))

    def _similarity(self, rows: NDArray[np.int64], leaf: int) -> float:
        """Similarity of the centre of some carried prototypes to a category's other prototypes."""
        centre = normalise_rows(self._vectors[rows].mean(axis=0, keepdims=True))
        known = np.setdiff1d(self._groups[leaf], np.concatenate([rows, self._carriers[rows]]))
        to_definition = centre @ self._index.definitions[leaf]
        to_prototypes = centre @ self._index.prototypes[known].T
        return float(blend(to_definition, to_prototypes, self._index)[0])


def _carrier(row: int, leaf: int, groups: Sequence[NDArray[np.int64]]) -> int:
    """Prototype of another category; each prototype of a category gets a different carrier."""
    place = int(np.flatnonzero(groups[leaf] == row)[0])
    distance = 1 + place * _STEP % (len(groups) - 1)
    for further in range(len(groups)):
        other = (leaf + distance + further) % len(groups)
        if other != leaf and len(groups[other]) > 0:
            return int(groups[other][place % len(groups[other])])
    raise ValueError("no other category has a prototype")


MULTILINGUAL = "multilingual"
"""Slug of the category whose score rises with the share of non-English text."""
SECONDARY_MARGIN = 0.5
"""Largest gap to the best score at which a category is assigned as well."""


@dataclass(frozen=True)
class Found:
    """A category with its confidence and the nearest snippet."""

    slug: str
    confidence: float
    snippet: int


@dataclass(frozen=True)
class Finding:
    """The categories of a latent, best first, and how far the choice is open."""

    found: list[Found]
    """Empty where no category fits."""
    doubt: float
    """0 = sure, 1 = two answers are equally probable; `none` is one of the answers."""


@dataclass(frozen=True)
class CategoryFinder:
    """Scores latents against category vectors on a calibrated scale."""

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

        The centre of the snippets is scored, because it keeps what they share. `foreign_share` is
        the share of examples whose language is not English. The sentence model knows English
        best, so the score of `multilingual` is raised by that share of a latent's typical score
        on its own category, or of the threshold if that is larger.
        """
        by_snippet = self.by_snippet(vectors)
        scores, threshold = self.scores(vectors, foreign_share), self.scale.none_threshold
        shares = _softmax(np.append(scores, threshold) / TEMPERATURE)
        floor = max(threshold, float(scores.max()) - SECONDARY_MARGIN)
        best = [leaf for leaf in np.argsort(-scores, kind="stable") if scores[leaf] >= floor]
        return [
            Found(self.index.slugs[leaf], float(shares[leaf]), int(by_snippet[:, leaf].argmax()))
            for leaf in best[:MAX_CATEGORIES]
        ]

    def doubt(self, vectors: NDArray[np.floating], foreign_share: float) -> float:
        """How far the choice of `find` is open, as in `Finding`."""
        scores = np.append(self.scores(vectors, foreign_share), self.scale.none_threshold)
        return float(doubt_of(_softmax(scores / TEMPERATURE)[None])[0])

    def by_snippet(self, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
        """Similarity (s, C) of each snippet to each leaf, in units of cosine."""
        return raw_similarities(vectors, self.index)

    def scores(self, vectors: NDArray[np.floating], foreign_share: float) -> NDArray[np.float64]:
        """Score (C,) of the centre of vectors (s, e) on each category, as `find` compares them."""
        centre = np.asarray(vectors).mean(axis=0, keepdims=True)
        scores: NDArray[np.float64] = self.scores_of_centres(centre, np.array([foreign_share]))[0]
        return scores

    def scores_of_centres(
        self, centres: NDArray[np.floating], foreign_shares: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Scores (n, C) of the centres (n, e) of latents with these shares (n,) of foreign text."""
        scores = self.scale.scores(raw_similarities(centres, self.index))
        if MULTILINGUAL in self.index.slugs:
            raised = self.index.slugs.index(MULTILINGUAL)
            largest = max(self.scale.typical_score, self.scale.none_threshold)
            scores[:, raised] += foreign_shares * largest
        return scores


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(logits - logits.max())
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares
