"""How long work reports on itself without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]
"""Called with the number of units finished since the last call."""


class Progress(Protocol):
    """Shows the progress of one task at a time, with rate and time left."""

    def task(self, label: str, total: int, unit: str) -> AbstractContextManager[Advance]:
        """Open a task of `total` units; the returned callable advances it."""
        ...

    def say(self, line: str) -> None:
        """Show a line, such as what a task will cost; not while a task is open."""
        ...


class SilentProgress:
    """Progress that nobody sees."""

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        """Open a task whose advances go nowhere."""

        def advance(_: int) -> None:
            return None

        yield advance

    def say(self, line: str) -> None:
        """Say nothing."""
