"""What every embedder offers, and a cache in front of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


class Embedder(Protocol):
    """Turns texts into vectors of one length."""

    @property
    def name(self) -> str:
        """What it is: `minilm`, `tfidf` or `openai:<model>`."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash or name that changes whenever the vectors could."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors (n, e), float32, of length 1 (0 where a text holds nothing known)."""
        ...


class EmbedderInFront:
    """Goes under the name of the embedder behind it."""

    def __init__(self, inner: Embedder) -> None:
        self._inner = inner

    @property
    def name(self) -> str:
        """Name of the embedder behind the cache."""
        return self._inner.name

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the embedder behind the cache."""
        return self._inner.fingerprint


class CachedEmbedder(EmbedderInFront):
    """Embeds each text once; the least recently used vectors are dropped."""

    def __init__(self, inner: Embedder, capacity: int = 50_000) -> None:
        super().__init__(inner)
        self._capacity = capacity
        self._vectors: OrderedDict[str, Vectors] = OrderedDict()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors (n, e) of `texts`, computed only for those that are not kept."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        found = {text: self._vectors[text] for text in texts if text in self._vectors}
        if missing:
            found.update(zip(missing, self._inner.embed(missing), strict=True))
        for text, vector in found.items():
            self._vectors[text] = vector
            self._vectors.move_to_end(text)
        while len(self._vectors) > self._capacity:
            self._vectors.popitem(last=False)
        if not texts:
            return self._inner.embed([])
        return np.stack([found[text] for text in texts])


def normalised(vectors: NDArray[np.floating]) -> Vectors:
    """Rows (n, e) scaled to length 1 as float32; rows of zeros stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return np.asarray(scaled, dtype=np.float32)


def encodable(text: str) -> str:
    """The text without lone surrogates, which no tokenizer can encode."""
    return text.encode("utf-8", "replace").decode("utf-8")
