"""A local BERT-like sentence model such as all-MiniLM-L6-v2, read with transformers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from labeler.embedding.base import Vectors, encodable, normalised
from labeler.errors import UsageError

MAX_TOKENS = 256
"""Tokens that all-MiniLM-L6-v2 was trained on; the rest of a text is cut."""
POOLING = "mean-256"
"""How states become a vector, in a word: another way is another model to a cache."""


class MiniLmEmbedder:
    """Mean of the last hidden states over the tokens of a text (arXiv 1908.10084, section 3).

    Raises UsageError when the folder holds no model that transformers can read.
    """

    name = "minilm"

    def __init__(self, folder: Path, batch_size: int = 64) -> None:
        self._folder = folder
        self._batch_size = batch_size
        self._tokenizer, self._model = _load(folder)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights."""
        weights = sorted([*self._folder.glob("*.safetensors"), *self._folder.glob("*.bin")])
        digest = hashlib.sha256()
        for path in weights:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors (n, e) of `texts`, in batches of similar length."""
        vectors = np.zeros((len(texts), self._model.config.hidden_size), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda index: (len(texts[index]), index))
        for first in range(0, len(order), self._batch_size):
            rows = order[first : first + self._batch_size]
            vectors[rows] = self._pooled([encodable(texts[row]) for row in rows])
        return normalised(vectors)

    def _pooled(self, texts: list[str]) -> Vectors:
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
    """Raise UsageError where a folder holds no model, without reading it."""
    if not (folder / "config.json").is_file():
        raise UsageError(f"embedding.path: {folder} holds no sentence model (no config.json)")


def _load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    require_sentence_model(folder)
    shows_bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        model = AutoModel.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"embedding.path: {folder} can not be read: {reason}") from error
    finally:
        if shows_bar:
            transformers_logging.enable_progress_bar()
    return tokenizer, model.eval()
