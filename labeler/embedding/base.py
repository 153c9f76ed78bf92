"""The embedder protocol, and caches in memory and on disk."""

from __future__ import annotations

import logging
import sqlite3
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from crosscoder.files import sha256_text

Vectors = NDArray[np.float32]


class Embedder(Protocol):
    """Turns texts into vectors of one length."""

    @property
    def name(self) -> str:
        """`minilm`, `tfidf` or `openai:<model>`."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash or name that changes whenever the vectors may change."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors (n, e), float32, of norm 1 (0 for a text without known content)."""
        ...


class EmbedderWrapper:
    """Has the name and fingerprint of the embedder that it wraps."""

    def __init__(self, inner: Embedder) -> None:
        self._inner = inner

    @property
    def name(self) -> str:
        """Name of the wrapped embedder."""
        return self._inner.name

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the wrapped embedder."""
        return self._inner.fingerprint


class CachedEmbedder(EmbedderWrapper):
    """Caches vectors in memory; the least recently used are dropped."""

    def __init__(self, inner: Embedder, capacity: int = 50_000) -> None:
        super().__init__(inner)
        self._capacity = capacity
        self._vectors: OrderedDict[str, Vectors] = OrderedDict()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors (n, e) of `texts`, computed only for those that are not cached."""
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


_LOGGER = logging.getLogger(__name__)
_TABLE = (
    "CREATE TABLE IF NOT EXISTS vector (model TEXT NOT NULL, text_sha256 TEXT NOT NULL,"
    " floats BLOB NOT NULL, PRIMARY KEY (model, text_sha256)) WITHOUT ROWID"
)
_READ_AT_ONCE = 500
"""Texts per SELECT statement."""
_WRITTEN_AT_ONCE = 512
"""Texts embedded between two writes, so that an interrupted run keeps most of its work."""


class DiskCachedEmbedder(EmbedderWrapper):
    """Caches vectors in a SQLite file; where that fails, a warning is logged and nothing is cached.

    `model` identifies everything that decides the vectors. For a server this includes the address,
    because two servers may use one name for different models.
    """

    def __init__(self, inner: Embedder, path: Path, model: str) -> None:
        super().__init__(inner)
        self._path = path
        self._model = model
        self._works = True

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors (n, e) of `texts`, computed only for those that are not in the file."""
        if not texts:
            return self._inner.embed([])
        keys = [sha256_text(encodable(text)) for text in texts]
        found = self._read(list(dict.fromkeys(keys)))
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        wanted = list(missing)
        for first in range(0, len(wanted), _WRITTEN_AT_ONCE):
            part = wanted[first : first + _WRITTEN_AT_ONCE]
            vectors = self._inner.embed([missing[key] for key in part])
            fresh = dict(zip(part, vectors, strict=True))
            self._write(fresh)
            found |= fresh
        return np.stack([found[key] for key in keys])

    def _read(self, keys: Sequence[str]) -> dict[str, Vectors]:
        found: dict[str, Vectors] = {}
        with self._file() as connection:
            if connection is None:
                return found
            for first in range(0, len(keys), _READ_AT_ONCE):
                part = keys[first : first + _READ_AT_ONCE]
                marks = ",".join("?" * len(part))
                rows = connection.execute(
                    f"SELECT text_sha256, floats FROM vector"
                    f" WHERE model = ? AND text_sha256 IN ({marks})",
                    [self._model, *part],
                )
                found |= {key: np.frombuffer(floats, dtype="<f4") for key, floats in rows}
        return found

    def _write(self, vectors: dict[str, Vectors]) -> None:
        with self._file() as connection:
            if connection is not None:
                connection.executemany(
                    "INSERT OR REPLACE INTO vector VALUES (?, ?, ?)",
                    [
                        (self._model, key, np.asarray(vector, dtype="<f4").tobytes())
                        for key, vector in vectors.items()
                    ],
                )
                connection.commit()

    @contextmanager
    def _file(self) -> Iterator[sqlite3.Connection | None]:
        """The open file, or None where it cannot be used; its errors are logged, not raised."""
        if not self._works:
            yield None
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=30)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute(_TABLE)
                yield connection
        except (sqlite3.Error, OSError) as error:
            self._works = False
            _LOGGER.warning("%s: vectors are not cached: %s", self._path, error)
