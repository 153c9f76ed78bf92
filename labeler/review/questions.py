"""The SQL page's questions: a few run at once, a few wait, further ones are told that it is busy.

Each question has a process of its own, so the pages keep their threads and the machine its memory
however many are asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy.engine import URL

from labeler.errors import WorkError
from labeler.review.turns import NoTurnError, Turns
from labeler.sql.query import run_limited
from labeler.sql.result import Limits, QueryResult

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
