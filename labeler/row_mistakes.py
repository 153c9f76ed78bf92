"""Mistakes in the rows of a file, gathered so that one look at the file mends them all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labeler.errors import UsageError

SHOWN = 20
"""How many are named; the rest are counted."""


class RowMistakes:
    """What is wrong with a file, row by row."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self._found: list[str] = []

    def add(self, words: str) -> None:
        """Keep what is wrong with one row."""
        self._found.append(words)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Keep an error of one row, and go on with the next."""
        try:
            yield
        except UsageError as error:
            self.add(str(error))

    def require_none(self) -> None:
        """Raise one UsageError that names them all, each in a line of its own."""
        if not self._found:
            return
        if len(self._found) == 1:
            raise UsageError(self._found[0])
        lines = [words.removeprefix(f"{self._source}: ") for words in self._found[:SHOWN]]
        if len(self._found) > SHOWN:
            lines.append(f"and {len(self._found) - SHOWN} more")
        raise UsageError(
            f"{self._source}: nothing imported, {len(self._found)} mistakes:\n" + "\n".join(lines)
        )
