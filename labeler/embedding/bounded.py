"""A server's answer, given up where it is too long or comes too slowly as a whole."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx2

from crosscoder.errors import InputError

LONGEST_BODY = 64 * 2**20
"""Bytes of an answer: 64 vectors of 16,384 numbers, written as text."""
LONGEST_ANSWER_S = 600.0
"""Seconds in which an answer must have come whole."""


def bound(response: httpx2.Response) -> None:
    """Let the body of a response raise InputError beyond either limit: a hook of the client."""
    response.stream = _Bounded(response.stream)


class _Bounded(httpx2.SyncByteStream):
    """A stream that counts what it passes on."""

    def __init__(self, stream: object) -> None:
        if not isinstance(stream, httpx2.SyncByteStream):
            raise TypeError("the stream of a response is read by a loop")
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        size, started = 0, time.monotonic()
        for part in self._stream:
            size += len(part)
            if size > LONGEST_BODY:
                raise InputError(f"its answer is longer than {LONGEST_BODY >> 20} MiB")
            if time.monotonic() - started > LONGEST_ANSWER_S:
                raise InputError(f"its answer did not come whole within {LONGEST_ANSWER_S:g} s")
            yield part

    def close(self) -> None:
        self._stream.close()
