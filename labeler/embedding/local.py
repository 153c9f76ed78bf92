"""Embedders that run in this process: a sentence model (MiniLM), and TF-IDF without any model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from crosscoder.files import sha256_text
from crosscoder.model_checks import check_size, check_small_files, check_weights, load_pretrained
from crosscoder.model_files import folder_sha256
from labeler.embedding.base import Embedder, Vectors, encodable, normalised
from labeler.errors import UsageError

MAX_TOKENS = 256
"""Longest input of all-MiniLM-L6-v2 in training; longer texts are cut."""
_WHERE = "embedding.path"
POOLING = "mean-256"
"""Name of the pooling, part of the cache key."""


class MiniLmEmbedder:
    """Mean of the last hidden states over the tokens of a text (arXiv 1908.10084, section 3).

    Raises UsageError where transformers cannot read the folder without running code from it,
    WorkError where the model does not fit into memory.
    """

    name = "minilm"

    def __init__(self, folder: Path, batch_size: int = 64) -> None:
        self._folder = folder
        self._batch_size = batch_size
        self._tokenizer, self._model = _load(folder)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights, the config and the tokenizer."""
        return folder_sha256(self._folder)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors (n, e) of `texts`, in batches of similar length."""
        vectors = np.zeros((len(texts), self._model.config.hidden_size), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda index: (len(texts[index]), index))
        for first in range(0, len(order), self._batch_size):
            rows = order[first : first + self._batch_size]
            vectors[rows] = self._pool([encodable(texts[row]) for row in rows])
        return normalised(vectors)

    def _pool(self, texts: list[str]) -> Vectors:
        import torch

        batch = self._tokenizer(
            texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )
        with torch.inference_mode():
            states = self._model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
            mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
        pooled: Vectors = mean.float().numpy()
        return pooled


def require_sentence_model(folder: Path) -> None:
    """Raise UsageError where a folder holds no model; nothing is loaded."""
    if not (folder / "config.json").is_file():
        raise UsageError(f"{_WHERE}: {folder} holds no sentence model (no config.json)")


def _load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    require_sentence_model(folder)
    check_small_files(_WHERE, folder)
    n_bytes = check_weights(_WHERE, folder)
    tokenizer = load_pretrained(AutoTokenizer, _WHERE, folder)
    config = load_pretrained(AutoConfig, _WHERE, folder)
    check_size(_WHERE, folder, AutoModel, config, n_bytes)
    model, info = load_pretrained(
        AutoModel, _WHERE, folder, config=config, output_loading_info=True, weights_only=True
    )
    # The pooler is not used, and many sentence models lack it.
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise UsageError(
            f"{_WHERE}: {folder} lacks the weights {', '.join(missing[:3])}; "
            "fetch the whole sentence model"
        )
    return tokenizer, model.eval()


DIMENSIONS = 256
"""Most components of a vector."""


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
    """An embedder for clustering: TF-IDF is fitted to `texts`, other embedders stay."""
    if embedder.name != "tfidf":
        return embedder
    try:
        return TfidfEmbedder(texts)
    except UsageError:
        return embedder
