"""Runs the review server: in this process, or in several that share one listening socket.

Python runs one thread of a process at a time, so the pages of many reviewers are answered by
several processes. All of them read and write the one database, which puts decisions in order, and
each compares its queue with the database at every request: whichever process answers, a page
shows every decision that was recorded before it was asked for.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from crosscoder.limits import MAX_REQUEST_HEADER_BYTES
from labeler.review.connections import (
    ACCEPTED_AT_ONCE,
    Crowd,
    LimitedProtocol,
    RepeatedLines,
    most_connections,
    watch,
)
from labeler.review.context import Context
from labeler.review.progress import read_progress
from labeler.store.engine import read_session

MOST_WORKERS = 4
WAITING_CONNECTIONS = 1_024
"""Connections that the kernel keeps until they are taken."""
END_S = 5
"""Seconds that requests in progress have when the server ends."""
_LEAST_LIFE_S = 1.0


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
