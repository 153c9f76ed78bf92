"""Sentence vectors: a local sentence model, TF-IDF where there is none, or a server."""

from __future__ import annotations

from labeler.embedding.base import CachedEmbedder, Embedder, normalised
from labeler.embedding.factory import find_minilm, make_embedder
from labeler.embedding.minilm import MiniLmEmbedder
from labeler.embedding.server import ServerEmbedder
from labeler.embedding.tfidf import TfidfEmbedder

__all__ = [
    "CachedEmbedder",
    "Embedder",
    "MiniLmEmbedder",
    "ServerEmbedder",
    "TfidfEmbedder",
    "find_minilm",
    "make_embedder",
    "normalised",
]
