"""Runs the review server: in this process, or in several that share one listening socket.

Python runs one thread of a process at a time, so the pages of many reviewers are answered by
several processes. All of them read and write the one database, which puts decisions in order, and
each compares its queue with the database at every request: whichever process answers, a page
shows every decision that was recorded before it was asked for.

A connection is waiting while the server needs something from its client: headers, the rest of a
body, or that it reads its answer. Each wait has a time limit. Where all places are taken, the
connection that has waited longest, of the address with the most waiting ones, is closed for the
new one, so that a crowd of silent connections never shuts a reviewer out; a request that is being
answered is never closed for another.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections import Counter
from contextlib import suppress
from enum import StrEnum
from functools import partial
from typing import Any, cast

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from crosscoder.limits import (
    MAX_ANSWER_PAUSE_SECONDS,
    MAX_BODY_SECONDS,
    MAX_CONNECTIONS,
    MAX_HEADER_SECONDS,
    MAX_REQUEST_HEADER_BYTES,
)
from labeler.review.context import Context
from labeler.review.routes.numbers import read_progress
from labeler.store.engine import read_session

ACCEPTED_AT_ONCE = 32
"""Connections taken between two looks at how many there are."""
OWN_FILES = 8 * ACCEPTED_AT_ONCE
"""File descriptors kept for the database, questions, and connections that are being closed."""
LEAST_READ_BYTES = 64 * 1024
"""Bytes of an answer that a client takes in MAX_ANSWER_PAUSE_SECONDS, on however slow a line."""
_LOOK_S = 0.5
_LINE_S = 60.0

logger = logging.getLogger("uvicorn.error")
MOST_WORKERS = 4
WAITING_CONNECTIONS = 1_024
"""Connections that the kernel keeps until they are taken."""
END_S = 5
"""Seconds that requests in progress have when the server ends."""
_LEAST_LIFE_S = 1.0


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


class ReviewServer(uvicorn.Server):
    """uvicorn with limits on its connections; what waits or runs for a page ends with it."""

    def __init__(self, context: Context, app: ASGIApp, starter: int | None = None) -> None:
        self.context = context
        self.starter = starter
        self.crowd = Crowd(most_connections())
        self._watching: asyncio.Task[None] | None = None
        super().__init__(
            uvicorn.Config(
                app,
                http=cast(Any, partial(LimitedProtocol, self.crowd)),
                ws="none",
                loop="asyncio",
                log_level="warning",
                server_header=False,
                proxy_headers=False,
                backlog=ACCEPTED_AT_ONCE,
                h11_max_incomplete_event_size=MAX_REQUEST_HEADER_BYTES,
                timeout_graceful_shutdown=END_S,
            )
        )
        for name in ("uvicorn.error", "asyncio"):
            logging.getLogger(name).addFilter(RepeatedLines())

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(WAITING_CONNECTIONS)
        self._watching = asyncio.create_task(watch(self.crowd))
        if self.starter is not None:
            asyncio.get_running_loop().add_reader(self.starter, self._end_with_starter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the questions and writes in progress, then the connections."""
        self.context.questions.close()
        self.context.writes.close()
        if self._watching is not None:
            self._watching.cancel()
        await super().shutdown(sockets)

    def _end_with_starter(self) -> None:
        self.should_exit = True


def default_workers(is_shared: bool) -> int:
    """One process for one reviewer; for several, one per core up to MOST_WORKERS."""
    return min(MOST_WORKERS, os.cpu_count() or 1) if is_shared else 1


def serve_context(context: Context, app: ASGIApp, listener: socket.socket, workers: int) -> None:
    """Serve until interrupted."""
    if workers == 1:
        _run(ReviewServer(context, app), listener)
        return
    with read_session(context.engine) as session, context.queue_index.lock:
        # Reads the queue, and loads the libraries that the pages of numbers need.
        read_progress(session, context.queue_index.table(session))
    # Nothing of the queue is copied into the processes as long as they only read it.
    gc.collect()
    gc.freeze()
    Workers(context, app, listener).run(workers)


def _run(server: ReviewServer, listener: socket.socket) -> None:
    """Serve until a signal; a closed terminal ends the server in order too, as Ctrl-C does."""
    hang_up = getattr(signal, "SIGHUP", None)
    before = None if hang_up is None else signal.getsignal(hang_up)
    if hang_up is None or not callable(before):
        server.run(sockets=[listener])
        return
    received: list[int] = []

    def end(number: int, _frame: object) -> None:
        received.append(number)
        server.should_exit = True

    signal.signal(hang_up, end)
    try:
        server.run(sockets=[listener])
    finally:
        signal.signal(hang_up, before)
    if received:
        signal.raise_signal(hang_up)


class Workers:
    """The processes of a server, started again where one of them dies."""

    def __init__(self, context: Context, app: ASGIApp, listener: socket.socket) -> None:
        self.context = context
        self.app = app
        self.listener = listener
        self._alive, self._held = os.pipe()
        self._started: dict[int, float] = {}

    def run(self, n: int) -> None:
        """Keep `n` processes until a signal ends this one; they end with it, however it ends."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, _end_orderly)
        try:
            for _ in range(n):
                self._start()
            while True:
                pid, _ = os.wait()
                lived = time.monotonic() - self._started.pop(pid, 0.0)
                time.sleep(max(0.0, _LEAST_LIFE_S - lived))
                self._start()
        finally:
            self._end()

    def _start(self) -> None:
        # An open connection of the database must not be shared between processes.
        self.context.engine.dispose()
        pid = os.fork()
        if pid == 0:
            self._work()
        self._started[pid] = time.monotonic()

    def _work(self) -> None:
        """The life of a process: it never returns to what started it."""
        os.close(self._held)
        # uvicorn has handlers of its own while it runs, and then leaves a signal to those before.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        status = 1
        try:
            ReviewServer(self.context, self.app, self._alive).run(sockets=[self.listener])
            status = 0
        except BaseException:
            logging.getLogger("uvicorn.error").exception("review: a process of the server failed")
        finally:
            sys.stderr.flush()
            os._exit(status)

    def _end(self) -> None:
        os.close(self._held)
        for pid in self._started:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        for pid in self._started:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _end_orderly(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)
