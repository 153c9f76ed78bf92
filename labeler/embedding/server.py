"""Vectors from an OpenAI-compatible server."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from labeler.embedding.base import Vectors, encodable, normalised
from labeler.errors import UsageError, WorkError

BATCH = 64
"""Texts in one request."""


class ServerEmbedder:
    """Asks `POST {base_url}/embeddings`; the key comes from the environment and is kept nowhere.

    Raises WorkError with the server's words when it does not answer.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key_env: str | None = None,
        timeout_s: float = 60.0,
        max_retries: int = 4,
    ) -> None:
        from openai import OpenAI

        self.model = model
        self._url = base_url
        self._client = OpenAI(
            base_url=base_url,
            api_key=read_key(api_key_env, "embedding.api_key_env"),
            timeout=timeout_s,
            max_retries=max_retries,
        )

    @property
    def name(self) -> str:
        """`openai:` and the model."""
        return f"openai:{self.model}"

    @property
    def fingerprint(self) -> str:
        """The model's name: what a server computes under it is not known here."""
        return self.name

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors (n, e) of `texts`, one request per batch."""
        rows: list[list[float]] = []
        for first in range(0, len(texts), BATCH):
            rows.extend(self._batch(texts[first : first + BATCH]))
        if not rows:
            return np.zeros((0, 0), dtype=np.float32)
        return normalised(np.asarray(rows, dtype=np.float64))

    def _batch(self, texts: Sequence[str]) -> list[list[float]]:
        from openai import OpenAIError

        try:
            reply = self._client.embeddings.create(
                model=self.model,
                # An empty input is an error at most servers.
                input=[encodable(text) or " " for text in texts],
                encoding_format="float",
            )
        except (OpenAIError, ValueError) as error:
            raise WorkError(f"embedding server {self._url}: {error}") from error
        rows = {item.index: item.embedding for item in reply.data}
        if sorted(rows) != list(range(len(texts))):
            raise WorkError(
                f"embedding server {self._url}: {len(rows)} vectors for {len(texts)} texts"
            )
        return [rows[index] for index in range(len(texts))]


def read_key(variable: str | None, key: str) -> str:
    """The key in an environment variable; `none` where the config names no variable."""
    if variable is None:
        return "none"
    value = os.environ.get(variable)
    if not value:
        raise UsageError(f"{key}: environment variable {variable} is not set; export it first")
    return value
