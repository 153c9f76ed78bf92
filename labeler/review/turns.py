"""Work that only so many threads do at once, and the SQL page's questions in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore, Event, Lock

from sqlalchemy.engine import URL

from labeler.errors import WorkError
from labeler.store.query.query import run_limited
from labeler.store.query.result import Limits, QueryResult

_LOOK_S = 0.1


class NoTurnError(WorkError):
    """The work was not begun: too many wait already, or the turn did not come in time."""


class Turns:
    """Lets `running` threads work at once and `waiting` more wait, for so many seconds."""

    def __init__(self, running: int, waiting: int, longest_wait_s: float) -> None:
        self._most = running + waiting
        self._longest_wait_s = longest_wait_s
        self._admitted = 0
        self._lock = Lock()
        self._slots = BoundedSemaphore(running)
        self._closed = Event()

    @contextmanager
    def turn(self, is_unwanted: Callable[[], bool] = lambda: False) -> Iterator[float]:
        """Wait for a turn and keep it for the block; yields the seconds of waiting that are left.

        NoTurnError where there is none to be had; another WorkError once `is_unwanted` says so or
        the turns are closed.
        """
        latest = time.monotonic() + self._longest_wait_s
        with self._admission():
            while not self._slots.acquire(timeout=_LOOK_S):
                if self.is_closed() or is_unwanted():
                    raise WorkError("nobody waits for this any more; nothing was done")
                if time.monotonic() > latest:
                    raise NoTurnError(f"waited {self._longest_wait_s:g} s for its turn")
            try:
                yield max(0.0, latest - time.monotonic())
            finally:
                self._slots.release()

    def close(self) -> None:
        """Let nobody wait any longer."""
        self._closed.set()

    def is_closed(self) -> bool:
        """Whether `close` was called: work in progress is to end."""
        return self._closed.is_set()

    @contextmanager
    def _admission(self) -> Iterator[None]:
        with self._lock:
            if self._admitted >= self._most:
                raise NoTurnError(f"{self._admitted} others are before it")
            self._admitted += 1
        try:
            yield
        finally:
            with self._lock:
                self._admitted -= 1


RUNNING = 2
WAITING = 4
LONGEST_WAIT_S = 15.0
NICE = 10
"""Questions step back behind the pages, which share the machine with them."""


class BusyError(WorkError):
    """Too many questions at once: this one was not asked."""


class Questions:
    """Asks a database, a bounded number of times at once."""

    def __init__(
        self, database_url: str | URL, running: int = RUNNING, waiting: int = WAITING
    ) -> None:
        self.database_url = database_url
        self._turns = Turns(running, waiting, LONGEST_WAIT_S)

    @contextmanager
    def turn(self, is_gone: Callable[[], bool]) -> Iterator[Callable[..., QueryResult]]:
        """What asks one statement under limits, once it is this caller's turn.

        BusyError where the turn does not come; another WorkError where the caller's reader has
        gone, or the server ends.
        """

        def ask(statement: str, limits: Limits) -> QueryResult:
            return run_limited(
                self.database_url, statement, limits, lambda: self._turns.is_closed() or is_gone()
            )

        try:
            with self._turns.turn(is_gone):
                yield ask
        except NoTurnError as error:
            raise BusyError(
                f"sql: the server is busy with other questions ({error});"
                " nothing was run, ask again in a few seconds"
            ) from None

    def close(self) -> None:
        """End what runs and what waits."""
        self._turns.close()
