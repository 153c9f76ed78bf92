"""Vectors from an OpenAI-compatible server."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from crosscoder.errors import InputError
from crosscoder.limits import parse_json
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
        from openai import DefaultHttpxClient, OpenAI

        from labeler.embedding.bounded import bound

        self.model = model
        self._url = base_url
        self._client = OpenAI(
            base_url=base_url,
            api_key=read_key(api_key_env, "embedding.api_key_env"),
            timeout=timeout_s,
            max_retries=max_retries,
            default_headers={"accept-encoding": "identity"},
            http_client=DefaultHttpxClient(event_hooks={"response": [bound]}),
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
        from openai import APIConnectionError, OpenAIError

        try:
            reply = self._client.embeddings.with_raw_response.create(
                model=self.model,
                # An empty input is an error at most servers.
                input=[encodable(text) or " " for text in texts],
                encoding_format="float",
            )
            return _vectors(reply.content, len(texts))
        except (OpenAIError, InputError, ValueError) as error:
            # A connection that failed says why in its cause alone.
            why = error.__cause__ if isinstance(error, APIConnectionError) else None
            raise WorkError(f"embedding server {self._url}: {why or error}") from error


def _vectors(content: bytes, count: int) -> list[list[float]]:
    """The vectors of a reply in the order of their texts; InputError where one is missing."""
    body = parse_json(content, "its answer")
    data = body.get("data") if isinstance(body, dict) else None
    try:
        rows = {item["index"]: [float(x) for x in item["embedding"]] for item in data or ()}
    except (KeyError, TypeError, ValueError):
        raise InputError("its answer holds no vectors") from None
    if sorted(rows) != list(range(count)):
        raise InputError(f"{len(rows)} vectors for {count} texts")
    if len({len(row) for row in rows.values()}) != 1:
        raise InputError("its vectors differ in length")
    return [rows[index] for index in range(count)]


def read_key(variable: str | None, key: str) -> str:
    """The key in an environment variable; `none` where the config names no variable."""
    if variable is None:
        return "none"
    value = os.environ.get(variable)
    if not value:
        raise UsageError(f"{key}: environment variable {variable} is not set; export it first")
    return value
