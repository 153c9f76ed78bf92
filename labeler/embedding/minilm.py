"""A local BERT-like sentence model such as all-MiniLM-L6-v2, read with transformers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from crosscoder.model_checks import check_size, check_small_files, check_weights
from crosscoder.model_files import folder_sha256
from crosscoder.pretrained import load_pretrained
from labeler.embedding.base import Vectors, encodable, normalised
from labeler.errors import UsageError

MAX_TOKENS = 256
"""Tokens that all-MiniLM-L6-v2 was trained on; the rest of a text is cut."""
_WHERE = "embedding.path"
POOLING = "mean-256"
"""How states become a vector, in a word: another way is another model to a cache."""


class MiniLmEmbedder:
    """Mean of the last hidden states over the tokens of a text (arXiv 1908.10084, section 3).

    Raises UsageError when the folder holds no model that transformers can read by itself: code
    that lies in it is not run. Raises WorkError when the model does not fit into memory.
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
    # Of the pooler, which many sentence models leave out, nothing is read.
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise UsageError(
            f"{_WHERE}: {folder} lacks the weights {', '.join(missing[:3])}; "
            "fetch the whole sentence model"
        )
    return tokenizer, model.eval()
