"""Connections that send slowly, or nothing, or never read: they make room for those that ask.

A connection is waiting while the server needs something from its client: headers, the rest of a
body, or that it reads its answer. Each wait has a time limit. Where all places are taken, the
connection that has waited longest, of the address with the most waiting ones, is closed for the
new one, so that a crowd of silent connections never shuts a reviewer out; a request that is being
answered is never closed for another.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections import Counter
from enum import StrEnum
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from crosscoder.limits import (
    MAX_ANSWER_PAUSE_SECONDS,
    MAX_BODY_SECONDS,
    MAX_CONNECTIONS,
    MAX_HEADER_SECONDS,
)

ACCEPTED_AT_ONCE = 32
"""Connections taken between two looks at how many there are."""
OWN_FILES = 8 * ACCEPTED_AT_ONCE
"""File descriptors kept for the database, questions, and connections that are being closed."""
LEAST_READ_BYTES = 64 * 1024
"""Bytes of an answer that a client takes in MAX_ANSWER_PAUSE_SECONDS, on however slow a line."""
_LOOK_S = 0.5
_LINE_S = 60.0

logger = logging.getLogger("uvicorn.error")


def most_connections(n_files: int | None = None) -> int:
    """Connections that one process holds under its limit of open files."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if n_files is None else n_files
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return min(MAX_CONNECTIONS, max(soft - OWN_FILES, soft // 4))


class Crowd:
    """The connections of a server, and which of them it waits for."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.members: set[LimitedProtocol] = set()
        self._waiting: dict[LimitedProtocol, None] = {}
        self._by_address: Counter[str] = Counter()
        self._n_closed: Counter[str] = Counter()
        self._last_line = -_LINE_S

    def join(self, member: LimitedProtocol) -> None:
        """Take a connection in; where there is no room, another one goes."""
        self.members.add(member)
        if len(self.members) > self.most:
            self._drop(self._longest_waiting() or member, "closed to make room")

    def leave(self, member: LimitedProtocol) -> None:
        """A connection has ended."""
        self.members.discard(member)
        self.is_served(member)

    def waits(self, member: LimitedProtocol) -> None:
        """The server waits for this connection's client from now on."""
        self.is_served(member)
        self._waiting[member] = None
        self._by_address[member.address] += 1

    def is_served(self, member: LimitedProtocol) -> None:
        """The client waits for the server."""
        if member in self._waiting:
            del self._waiting[member]
            self._by_address[member.address] -= 1
            if not self._by_address[member.address]:
                del self._by_address[member.address]

    def close_overdue(self, now: float) -> None:
        """Close every connection whose time is over, and say how many there were."""
        for member in [each for each in self._waiting if each.latest <= now]:
            if not member.reads_on():
                self._drop(member, member.overdue)
        if self._n_closed and now - self._last_line >= _LINE_S:
            counts = ", ".join(f"{n:,} {words}" for words, n in self._n_closed.items())
            logger.warning("review: connections closed in the last minute: %s", counts)
            self._n_closed.clear()
            self._last_line = now

    def _longest_waiting(self) -> LimitedProtocol | None:
        if not self._waiting:
            return None
        (crowded, n), *_ = self._by_address.most_common(1)
        del n
        return next(each for each in self._waiting if each.address == crowded)

    def _drop(self, member: LimitedProtocol, words: str) -> None:
        self._n_closed[words] += 1
        self.leave(member)
        member.transport.abort()


class Phase(StrEnum):
    """What a connection is about."""

    HEADER = "header"
    BODY = "body"
    ANSWER = "answer"


_LIMITS = {
    Phase.HEADER: ("sent no request in time", MAX_HEADER_SECONDS),
    Phase.BODY: ("sent a body too slowly", MAX_BODY_SECONDS),
}


class LimitedProtocol(H11Protocol):
    """uvicorn's HTTP protocol with a clock for everything that the client is waited for."""

    def __init__(self, crowd: Crowd, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.crowd = crowd
        self.address = ""
        self.phase = Phase.HEADER
        self.latest = 0.0
        self.overdue = ""
        self._n_unread = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self.crowd.join(self)
        if not transport.is_closing():
            self._wait(*_LIMITS[Phase.HEADER])

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self.crowd.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have come; only a whole header, or the end of a body, stops its clock."""
        super().data_received(data)
        self._follow()

    def on_response_complete(self) -> None:
        """An answer is out; the connection waits for the next request."""
        super().on_response_complete()
        self._follow()

    def pause_writing(self) -> None:
        """The client does not read its answer."""
        super().pause_writing()
        self._await_reading()

    def resume_writing(self) -> None:
        """The client reads on."""
        super().resume_writing()
        if self.phase is Phase.ANSWER:
            self.crowd.is_served(self)

    def reads_on(self) -> bool:
        """Whether the client reads a long answer, if slowly; then its clock begins again."""
        if not self.flow.write_paused:
            return False
        if self._n_unread - self.transport.get_write_buffer_size() < LEAST_READ_BYTES:
            return False
        self._await_reading()
        return True

    def _await_reading(self) -> None:
        self._n_unread = self.transport.get_write_buffer_size()
        self._wait("left their answer unread", MAX_ANSWER_PAUSE_SECONDS)

    def _follow(self) -> None:
        phase = self._current_phase()
        if phase is self.phase or self.transport.is_closing():
            return
        self.phase = phase
        if phase is Phase.ANSWER:
            self.crowd.is_served(self)
        elif not self.flow.write_paused:
            self._wait(*_LIMITS[phase])

    def _current_phase(self) -> Phase:
        if self.cycle is None or self.cycle.response_complete:
            return Phase.HEADER
        return Phase.BODY if self.conn.their_state is h11.SEND_BODY else Phase.ANSWER

    def _wait(self, overdue: str, seconds: float) -> None:
        self.overdue = overdue
        self.latest = time.monotonic() + seconds
        self.crowd.waits(self)


class RepeatedLines(logging.Filter):
    """Lets a line of a log pass once a minute: what a stranger can cause must not fill it."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}
        self._n_kept_back: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line passes; the next one of its kind says how many did not."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, h11.LocalProtocolError):
            # The client broke the protocol and has been told so; nobody hears a second answer.
            return False
        kind = f"{record.name} {str(record.msg).partition(chr(10))[0]}"[:200]
        if error is not None:
            kind += repr(error)[:200]
        now = time.monotonic()
        if now - self._last.get(kind, -_LINE_S) < _LINE_S:
            self._n_kept_back[kind] += 1
            return False
        if len(self._last) > 1000:
            self._last.clear()
        self._last[kind] = now
        n_before = self._n_kept_back.pop(kind, 0)
        if n_before:
            record.msg, record.args = f"{record.getMessage()} (and {n_before:,} times before)", None
        return True


async def watch(crowd: Crowd) -> None:
    """Close what is overdue, until cancelled."""
    while True:
        await asyncio.sleep(_LOOK_S)
        crowd.close_overdue(time.monotonic())
