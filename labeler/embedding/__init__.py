"""Sentence vectors: a local sentence model, TF-IDF where there is none, or a server."""

from __future__ import annotations

from labeler.embedding.base import CachedEmbedder, Embedder, normalised
from labeler.embedding.disk_cache import DiskCachedEmbedder
from labeler.embedding.factory import check_embedding, find_minilm, make_embedder
from labeler.embedding.minilm import MiniLmEmbedder
from labeler.embedding.server import ServerEmbedder
from labeler.embedding.tfidf import TfidfEmbedder

__all__ = [
    "CachedEmbedder",
    "DiskCachedEmbedder",
    "Embedder",
    "MiniLmEmbedder",
    "ServerEmbedder",
    "TfidfEmbedder",
    "check_embedding",
    "find_minilm",
    "make_embedder",
    "normalised",
]
