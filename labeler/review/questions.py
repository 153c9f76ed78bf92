"""The SQL page's questions: a few run at once, a few wait, further ones are told that it is busy.

Each question has a process of its own, so the pages keep their threads and the machine its memory
however many are asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore, Event, Lock

from sqlalchemy.engine import URL

from labeler.errors import WorkError
from labeler.sql.process import UnwantedError
from labeler.sql.query import run_limited
from labeler.sql.result import Limits, QueryResult

RUNNING = 2
WAITING = 4
LONGEST_WAIT_S = 15.0
NICE = 10
"""Questions step back behind the pages, which share the machine with them."""
_LOOK_S = 0.1


class BusyError(WorkError):
    """Too many questions at once: this one was not asked."""

    def __init__(self, running: int) -> None:
        super().__init__(
            f"sql: busy with {running} other questions; nothing was run, ask again in a few seconds"
        )


class Questions:
    """Asks a database, a bounded number of times at once."""

    def __init__(
        self, database_url: str | URL, running: int = RUNNING, waiting: int = WAITING
    ) -> None:
        self.database_url = database_url
        self.running = running
        self._most = running + waiting
        self._admitted = 0
        self._lock = Lock()
        self._slots = BoundedSemaphore(running)
        self._closed = Event()

    @contextmanager
    def turn(self, is_unwanted: Callable[[], bool]) -> Iterator[Callable[..., QueryResult]]:
        """What asks one statement under limits, once it is this caller's turn.

        BusyError where too many wait already or the turn does not come; UnwantedError where the
        caller's reader has gone, or the server ends.
        """

        def is_over() -> bool:
            return self._closed.is_set() or is_unwanted()

        def ask(statement: str, limits: Limits) -> QueryResult:
            return run_limited(self.database_url, statement, limits, is_over)

        with self._place():
            self._wait(is_over)
            try:
                yield ask
            finally:
                self._slots.release()

    def close(self) -> None:
        """End what runs and what waits, and take nothing more."""
        self._closed.set()

    @contextmanager
    def _place(self) -> Iterator[None]:
        with self._lock:
            if self._admitted >= self._most:
                raise BusyError(self._admitted)
            self._admitted += 1
        try:
            yield
        finally:
            with self._lock:
                self._admitted -= 1

    def _wait(self, is_over: Callable[[], bool]) -> None:
        latest = time.monotonic() + LONGEST_WAIT_S
        while not self._slots.acquire(timeout=_LOOK_S):
            if is_over():
                raise UnwantedError("sql: nobody waits for the answer any more")
            if time.monotonic() > latest:
                raise BusyError(self._admitted - 1)
