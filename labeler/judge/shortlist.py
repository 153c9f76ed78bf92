"""Which categories a judge that reads prompts is shown: those nearest by sentence vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labeler.embedding.base import CachedEmbedder, Embedder
from labeler.judge.base import CategoryOption, LatentRecord
from labeler.judge.evidence_statistics import LanguageIdentifier, foreign_share, read
from labeler.judge.nearest_category import CategoryFinder
from taxonomy.clustering import canonical_text


class Shortlister:
    """Ranks the categories for each latent as the evidence judge does."""

    def __init__(self, options: Sequence[CategoryOption], embedder: Embedder, size: int) -> None:
        self._options = tuple(options)
        self._size = size
        self._embedder = CachedEmbedder(embedder)
        self._finder = CategoryFinder.build(self._options, self._embedder)
        self._languages = LanguageIdentifier()

    def nearest(self, subject: LatentRecord, explanation: str) -> tuple[CategoryOption, ...]:
        """The categories with the best scores, best first; ties in the taxonomy's order.

        The texts on which the latent fires are scored; where it has none, the explanation.
        """
        reading = read(subject)
        texts = [piece.text for piece in reading.snippets]
        foreign = foreign_share(reading.windows, self._languages) if texts else 0.0
        vectors = self._embedder.embed(texts or [canonical_text(explanation)])
        scores = np.round(self._finder.scores(vectors, foreign), 4)
        best = np.argsort(-scores, kind="stable")[: self._size]
        return tuple(self._options[place] for place in best)
