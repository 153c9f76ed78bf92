"""The answer to a question, and the limits on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from labeler.errors import WorkError

MAX_ROWS = 10_000
TIMEOUT_S = 30.0
MAX_ANSWER_BYTES = 200_000_000
"""Characters and bytes in all values of one answer."""
_ROWS_AT_ONCE = 200


@dataclass(frozen=True)
class Limits:
    """How much one question may take."""

    max_rows: int = MAX_ROWS
    timeout_s: float = TIMEOUT_S


@dataclass(frozen=True)
class QueryResult:
    """The answer to one question."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    truncated: bool
    """Whether there were more rows than asked for."""


def collect(
    columns: Sequence[str], fetch: Callable[[int], Sequence[Sequence[Any]]], max_rows: int
) -> QueryResult:
    """Take up to `max_rows` rows from `fetch`; WorkError once they are too large to hold."""
    rows: list[tuple[Any, ...]] = []
    size = 0
    while len(rows) <= max_rows:
        part = fetch(min(_ROWS_AT_ONCE, max_rows + 1 - len(rows)))
        if not part:
            break
        rows += [tuple(row) for row in part]
        size += sum(len(value) for row in part for value in row if isinstance(value, str | bytes))
        if size > MAX_ANSWER_BYTES:
            raise WorkError(
                f"sql: the answer exceeds {MAX_ANSWER_BYTES // 1_000_000} MB; ask for less"
            )
    return QueryResult(tuple(columns), tuple(rows[:max_rows]), truncated=len(rows) > max_rows)


def slow(timeout_s: float) -> WorkError:
    """The error of a question that took too long."""
    return WorkError(f"sql: stopped after {timeout_s:g} s; narrow the question or raise --timeout")
