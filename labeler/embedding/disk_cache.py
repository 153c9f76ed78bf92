"""Vectors kept on disk by model and text hash: what was embedded once is not embedded again."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from crosscoder.files import sha256_text
from labeler.embedding.base import Embedder, EmbedderInFront, Vectors, encodable

_LOGGER = logging.getLogger(__name__)
_TABLE = (
    "CREATE TABLE IF NOT EXISTS vector (model TEXT NOT NULL, text_sha256 TEXT NOT NULL,"
    " floats BLOB NOT NULL, PRIMARY KEY (model, text_sha256)) WITHOUT ROWID"
)
_AT_A_TIME = 500
"""Texts asked for in one statement."""
_KEPT_AT_A_TIME = 512
"""Texts embedded before they are kept, so that an interrupted run keeps most of its work."""


class DiskCachedEmbedder(EmbedderInFront):
    """An embedder in front of a file; a cache that can not be used is done without, and said so.

    `model` names whatever decides the vectors: for a server its address too, because two servers
    may call different models by one name.
    """

    def __init__(self, inner: Embedder, path: Path, model: str) -> None:
        super().__init__(inner)
        self._path = path
        self._model = model
        self._works = True

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors (n, e) of `texts`, computed only for those that the file does not hold."""
        if not texts:
            return self._inner.embed([])
        keys = [sha256_text(encodable(text)) for text in texts]
        found = self._read(list(dict.fromkeys(keys)))
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        wanted = list(missing)
        for first in range(0, len(wanted), _KEPT_AT_A_TIME):
            part = wanted[first : first + _KEPT_AT_A_TIME]
            vectors = self._inner.embed([missing[key] for key in part])
            fresh = dict(zip(part, vectors, strict=True))
            self._keep(fresh)
            found |= fresh
        return np.stack([found[key] for key in keys])

    def _read(self, keys: Sequence[str]) -> dict[str, Vectors]:
        found: dict[str, Vectors] = {}
        with self._file() as connection:
            if connection is None:
                return found
            for first in range(0, len(keys), _AT_A_TIME):
                part = keys[first : first + _AT_A_TIME]
                marks = ",".join("?" * len(part))
                rows = connection.execute(
                    f"SELECT text_sha256, floats FROM vector"
                    f" WHERE model = ? AND text_sha256 IN ({marks})",
                    [self._model, *part],
                )
                found |= {key: np.frombuffer(floats, dtype="<f4") for key, floats in rows}
        return found

    def _keep(self, vectors: dict[str, Vectors]) -> None:
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
        """The open file, or None where there is none to be had; its errors end here."""
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
            _LOGGER.warning("%s: vectors are not kept: %s", self._path, error)
