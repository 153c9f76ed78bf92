"""Vectors without a model: TF-IDF of words and characters, reduced by SVD."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from crosscoder.files import sha256_text
from labeler.embedding.base import Embedder, Vectors, encodable, normalised
from labeler.errors import UsageError

DIMENSIONS = 256
"""Most components that are kept."""


class TfidfEmbedder:
    """Word and character n-grams weighted by rarity in the fitted texts (latent semantic analysis).

    The same texts, in any order, give the same vectors. Raises UsageError where they hold no word.
    """

    name = "tfidf"

    def __init__(self, fit_texts: Iterable[str], dimensions: int = DIMENSIONS) -> None:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_union

        texts = sorted({encodable(text) for text in fit_texts})
        self._fingerprint = sha256_text("\x00".join(texts))
        self._features = make_union(
            TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)),
            TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(3, 5)),
        )
        try:
            matrix = self._features.fit_transform(texts)
        except ValueError:
            raise UsageError("embedding: the texts to fit TF-IDF on hold no words") from None
        size = min(dimensions, matrix.shape[0] - 1, matrix.shape[1] - 1)
        self._svd = TruncatedSVD(n_components=size, random_state=0) if size >= 2 else None
        if self._svd is not None:
            self._svd.fit(matrix)

    @property
    def fingerprint(self) -> str:
        """Hash of the fitted texts."""
        return self._fingerprint

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors (n, e) of `texts`; a text without a known n-gram is zero."""
        matrix = self._features.transform([encodable(text) for text in texts] or [""])
        dense = matrix.toarray() if self._svd is None else self._svd.transform(matrix)
        return normalised(np.asarray(dense, dtype=np.float64))[: len(texts)]


def fitted_to(embedder: Embedder, texts: Sequence[str]) -> Embedder:
    """The embedder for clustering `texts`; the judge goes on with the one it has."""
    if embedder.name != "tfidf":
        return embedder
    try:
        return TfidfEmbedder(texts)
    except UsageError:
        return embedder
