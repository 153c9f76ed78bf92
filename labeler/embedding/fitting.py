"""Vectors of explanations: TF-IDF is fitted to them, a sentence model knows language already."""

from __future__ import annotations

from collections.abc import Sequence

from labeler.embedding.base import Embedder
from labeler.embedding.tfidf import TfidfEmbedder
from labeler.errors import UsageError


def fitted_to(embedder: Embedder, texts: Sequence[str]) -> Embedder:
    """The embedder for clustering `texts`; the judge goes on with the one it has."""
    if embedder.name != "tfidf":
        return embedder
    try:
        return TfidfEmbedder(texts)
    except UsageError:
        return embedder
