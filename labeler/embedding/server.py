"""Vectors from an OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from crosscoder.limits import MAX_VECTORS_BYTES, parse_json
from labeler.embedding.base import Vectors, encodable, normalised
from labeler.errors import UsageError, WorkError
from labeler.http.connections import (
    BlockingConnection,
    Connection,
    ConnectionFailedError,
    Endpoint,
    read_key,
    tls_for,
    without_key,
)
from labeler.http.errors import is_worth_retrying, retry_after_s, server_error

BATCH = 64
"""Texts in one request."""
LONGEST_ANSWER_S = 600.0
"""Seconds within which an answer must be complete."""
LONGEST_WAIT_S = 60.0
"""Longest Retry-After, in seconds, that is followed; longer ones are ignored."""
_BACKOFF = wait_random_exponential(multiplier=0.5, max=8)


class _RetryableError(WorkError):
    """No answer now; a later attempt may get one."""

    def __init__(self, words: str, wait_s: float | None = None) -> None:
        super().__init__(words)
        self.wait_s = wait_s


class ServerEmbedder:
    """Embeds with `POST {base_url}/embeddings`; the key comes from the environment.

    Transport errors, 408, 429 and 5xx are retried. Raises WorkError with the server's message
    where it does not answer.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key_env: str | None = None,
        timeout_s: float = 60.0,
        max_retries: int = 4,
    ) -> None:
        read_key(api_key_env, "embedding.api_key_env")
        self.model = model
        self._endpoint = endpoint = Endpoint(base_url.rstrip("/"), model, api_key_env)
        self._connection = BlockingConnection(
            Connection(endpoint, tls_for((endpoint,)), MAX_VECTORS_BYTES, silence_s=timeout_s)
        )
        self._retrying = Retrying(
            retry=retry_if_exception_type(_RetryableError),
            stop=stop_after_attempt(1 + max_retries),
            wait=_wait_s,
            reraise=True,
        )

    @property
    def name(self) -> str:
        """`openai:` and the model."""
        return f"openai:{self.model}"

    @property
    def fingerprint(self) -> str:
        """The model's name, since the server's weights are unknown."""
        return self.name

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors (n, e) of `texts`, one request per batch."""
        rows: list[list[float]] = []
        for first in range(0, len(texts), BATCH):
            rows.extend(self._retrying(self._batch, texts[first : first + BATCH]))
        if not rows:
            return np.zeros((0, 0), dtype=np.float32)
        return normalised(np.asarray(rows, dtype=np.float64))

    def _batch(self, texts: Sequence[str]) -> list[list[float]]:
        body = {
            "model": self.model,
            # An empty input is an error at most servers.
            "input": [encodable(text) or " " for text in texts],
            "encoding_format": "float",
        }
        try:
            answer = self._connection.post("/embeddings", body, LONGEST_ANSWER_S)
            if answer.status == 200:
                return _vectors(answer.content, len(texts))
        except ConnectionFailedError as broken:
            words = without_key(str(broken), self._endpoint.api_key_env)
            raise _RetryableError(self._message(words)) from broken
        except TimeoutError:
            words = f"its answer did not come whole within {LONGEST_ANSWER_S:g} s"
            raise WorkError(self._message(words)) from None
        except UsageError as wrong:
            raise WorkError(self._message(str(wrong))) from wrong
        error = server_error(answer.status, answer.content, self._endpoint.api_key_env)
        shown = self._message(error.shown)
        if is_worth_retrying(answer.status):
            raise _RetryableError(shown, retry_after_s(answer.headers.get("retry-after")))
        raise WorkError(shown)

    def _message(self, words: str) -> str:
        return f"embedding server {self._endpoint.base_url}: {words}"


def _wait_s(state: RetryCallState) -> float:
    """The server's Retry-After where it is not too long, else exponential backoff."""
    error = state.outcome.exception() if state.outcome is not None else None
    asked = error.wait_s if isinstance(error, _RetryableError) else None
    return asked if asked is not None and asked <= LONGEST_WAIT_S else float(_BACKOFF(state))


def _vectors(content: bytes, count: int) -> list[list[float]]:
    """The vectors of a reply in the order of their texts; UsageError where one is missing."""
    body = parse_json(content, "its answer")
    data = body.get("data") if isinstance(body, dict) else None
    try:
        rows = {item["index"]: [float(x) for x in item["embedding"]] for item in data or ()}
    except (KeyError, TypeError, ValueError):
        raise UsageError("its answer holds no vectors") from None
    if sorted(rows) != list(range(count)):
        raise UsageError(f"{len(rows)} vectors for {count} texts")
    if len({len(row) for row in rows.values()}) != 1:
        raise UsageError("its vectors differ in length")
    return [rows[index] for index in range(count)]
