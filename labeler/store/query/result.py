"""The answer to a question, its limits, and how it crosses from the process that asked it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from labeler.errors import WorkError

MAX_ROWS = 10_000
TIMEOUT_S = 30.0
MAX_ANSWER_BYTES = 200_000_000
"""Characters and bytes in all values of one answer, each value counted as VALUE_BYTES at least."""
MAX_HEAP_BYTES = 1 << 30
"""Bytes that SQLite may take for one question, sorting included."""
VALUE_BYTES = 8
SHOWN_CHARACTERS = 501
"""Characters of a value that is only looked at: one more than a page prints of it."""


@dataclass(frozen=True)
class Limits:
    """How much one question may take."""

    max_rows: int = MAX_ROWS
    timeout_s: float = TIMEOUT_S
    max_bytes: int = MAX_ANSWER_BYTES
    max_heap_bytes: int = MAX_HEAP_BYTES
    is_shown: bool = False
    """The answer is only looked at: long values are cut, and rows end at `max_bytes` instead of
    the question being refused."""
    nice: int = 0
    """How far the question's process steps back behind others, as of `nice`."""


@dataclass(frozen=True)
class QueryResult:
    """The answer to one question."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    truncated: bool
    """Whether there were more rows than asked for."""


class RowCounter:
    """Hands on the rows of an answer as far as the limits go."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.truncated = False
        self.size = 0

    def kept(self, rows: Iterator[Sequence[Any]]) -> Iterator[Sequence[Any]]:
        """The rows that are part of the answer; WorkError once they are too large to hold."""
        for number, row in enumerate(rows):
            shown = [_cut(value) for value in row] if self.limits.is_shown else row
            self.size += sum(
                len(value) + VALUE_BYTES if isinstance(value, str | bytes) else VALUE_BYTES
                for value in shown
            )
            is_large = self.size > self.limits.max_bytes
            if is_large and not self.limits.is_shown:
                raise too_large(self.limits)
            if is_large or number == self.limits.max_rows:
                self.truncated = True
                return
            yield shown


def _cut(value: Any) -> Any:
    return value[:SHOWN_CHARACTERS] if isinstance(value, str | bytes) else value


def slow(timeout_s: float) -> WorkError:
    """The error of a question that took too long."""
    return WorkError(f"sql: stopped after {timeout_s:g} s; narrow the question or raise --timeout")


def too_large(limits: Limits) -> WorkError:
    """The error of an answer that is too large to hold."""
    return WorkError(f"sql: the answer exceeds {limits.max_bytes // 1_000_000} MB; ask for less")


def too_hungry() -> WorkError:
    """The error of a question that needs too much memory."""
    return WorkError("sql: the question needs more memory than it may; narrow it")


Frame = tuple[str, Any]
HEADER_BYTES = 4


def pack(kind: str, payload: Any) -> bytes:
    """One frame."""
    text = json.dumps([kind, payload], ensure_ascii=False, default=_tagged, separators=(",", ":"))
    body = text.encode("utf-8", "surrogatepass")
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def unpack(body: bytes) -> Frame:
    """The frame of a body; ValueError for one that is none."""
    try:
        frame = json.loads(body.decode("utf-8", "surrogatepass"), object_hook=_untagged)
        kind, payload = frame
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    return str(kind), payload


def as_json(value: Any) -> Any:
    """A value of a row as JSON keeps it; what JSON has no word for is tagged while it is packed."""
    if isinstance(value, dict):
        return {"pairs": [[str(key), as_json(part)] for key, part in value.items()]}
    if isinstance(value, list | tuple):
        return [as_json(part) for part in value]
    return value


def _tagged(value: Any) -> dict[str, Any]:
    if isinstance(value, bytes | memoryview):
        return {"bytes": bytes(value).hex()}
    name = type(value).__name__
    if name in ("Decimal", "UUID"):
        return {name: str(value)}
    if name in ("datetime", "date", "time"):
        return {name: value.isoformat()}
    if name == "timedelta":
        return {name: [value.days, value.seconds, value.microseconds]}
    return {"text": str(value)}


def _untagged(found: dict[str, Any]) -> Any:
    (name, value), *further = found.items()
    if further or name not in _READERS:
        raise ValueError(f"{name!r} is no tag")
    return _READERS[name](value)


def _datetime_reader(name: str) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        import datetime

        kind = getattr(datetime, name)
        return kind(*value) if name == "timedelta" else kind.fromisoformat(value)

    return read


def _read_decimal(value: Any) -> Any:
    from decimal import Decimal

    return Decimal(value)


def _read_uuid(value: Any) -> Any:
    from uuid import UUID

    return UUID(value)


_READERS: dict[str, Callable[[Any], Any]] = {
    "bytes": bytes.fromhex,
    "Decimal": _read_decimal,
    "UUID": _read_uuid,
    "pairs": dict,
    "text": str,
    **{name: _datetime_reader(name) for name in ("datetime", "date", "time", "timedelta")},
}
