"""A question to a study's database: asked in a process of its own, ended in time, and printed."""

from __future__ import annotations

import json
import math
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL

import labeler
from labeler.errors import UsageError, WorkError
from labeler.store.database_url import parse_url, sqlite_file
from labeler.store.engine import require_existing
from labeler.store.query.postgresql import connection_arguments
from labeler.store.query.result import (
    HEADER_BYTES,
    MAX_ROWS,
    TIMEOUT_S,
    Frame,
    Limits,
    QueryResult,
    slow,
    too_hungry,
    too_large,
    unpack,
)
from labeler.text import csv_for_people, csv_text, visible

START_S = 10.0
"""Seconds until the process has begun, a connection to a server included."""
GRACE_S = 0.4
"""Seconds after the deadline for the process to say itself that it was stopped."""
_LOOK_S = 0.1
_END_S = 0.3
_CODE = "import sys; sys.path += sys.argv[1:]; from labeler.store.query.child import main; main()"
_FRAME_OVERHEAD = 8
"""Bytes of a frame for each byte of a value at most, quotes and escapes counted."""
_READ_BYTES = 1 << 18
_FIRST_WORD = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?\*/|[(;])*+(\w+)", re.DOTALL)
_QUESTION_WORDS = frozenset({"select", "with", "values", "table"})
MOST_PADDING = 400
"""Widest column that shorter cells are padded to: one long text must not widen every row."""


class UnwantedError(WorkError):
    """Whoever asked has gone."""


def ask_in_process(
    kind: str,
    database: Any,
    statement: str,
    limits: Limits,
    is_unwanted: Callable[[], bool] = lambda: False,
) -> QueryResult:
    """The answer to one statement; `database` is a file's path, or a server's arguments.

    UsageError and WorkError as the process reports them; WorkError where it had to be ended.
    """
    request = {
        "kind": kind,
        "database": database,
        "statement": statement,
        "limits": asdict(limits),
    }
    with _running() as process:
        _write(process, json.dumps(request).encode() + b"\n")
        columns: tuple[str, ...] = ()
        rows: list[tuple[Any, ...]] = []
        for frame, payload in _frames(process, limits, is_unwanted):
            if frame == "columns":
                columns = tuple(payload)
            elif frame == "rows":
                rows += [tuple(row) for row in payload]
            elif frame == "error":
                failure, words = payload
                raise (UsageError if failure == "usage" else WorkError)(words)
            elif frame == "end":
                return QueryResult(columns, tuple(rows), truncated=bool(payload))
        raise _ended(process, limits)


@contextmanager
def _running() -> Iterator[subprocess.Popen[bytes]]:
    """The process; when the block ends, however it does, the process has ended too."""
    root = str(Path(labeler.__file__).resolve().parents[1])
    places = [root, *(str(Path(place).absolute()) for place in sys.path)]
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _CODE, *places],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        # Ctrl-C is for the one who asks: it ends the process in order.
        start_new_session=True,
    )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """A closed input lets the process cancel what runs on a server; then it is killed."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        if process.stdout is not None:
            process.stdout.close()


def _write(process: subprocess.Popen[bytes], request: bytes) -> None:
    assert process.stdin is not None
    try:
        rest = memoryview(request)
        while rest:
            rest = rest[process.stdin.write(rest) or 0 :]
    except BrokenPipeError:
        raise WorkError("sql: the process of the question could not start") from None


def _frames(
    process: subprocess.Popen[bytes], limits: Limits, is_unwanted: Callable[[], bool]
) -> Iterator[Frame]:
    """What the process sends until it closes; `slow` once the deadline has passed."""
    assert process.stdout is not None
    source = process.stdout.fileno()
    waiting = select.poll()
    waiting.register(source, select.POLLIN)
    largest = _FRAME_OVERHEAD * limits.max_bytes + _READ_BYTES
    received = bytearray()
    total = 0
    deadline = time.monotonic() + START_S
    while True:
        left = deadline - time.monotonic()
        if left < 0:
            raise slow(limits.timeout_s)
        if is_unwanted():
            raise UnwantedError("sql: nobody waits for the answer any more")
        if not waiting.poll(1000 * min(left, _LOOK_S)):
            continue
        part = os.read(source, _READ_BYTES)
        if not part:
            return
        received += part
        total += len(part)
        if total > largest:
            raise too_large(limits)
        for frame in _taken(received):
            if frame[0] == "started":
                deadline = time.monotonic() + limits.timeout_s + GRACE_S
            yield frame


def _taken(received: bytearray) -> Iterator[Frame]:
    """The whole frames at the start of what was received; they are taken off it."""
    while len(received) >= HEADER_BYTES:
        end = HEADER_BYTES + int.from_bytes(received[:HEADER_BYTES], "big")
        if len(received) < end:
            return
        body = bytes(received[HEADER_BYTES:end])
        del received[:end]
        try:
            yield unpack(body)
        except ValueError as error:
            raise WorkError(f"sql: the answer cannot be read ({error})") from None


def _ended(process: subprocess.Popen[bytes], limits: Limits) -> WorkError:
    """Why the process closed its answer before the end of it."""
    status = process.wait()
    if status == -signal.SIGALRM:
        return slow(limits.timeout_s)
    if status == -signal.SIGKILL:
        return too_hungry()
    return WorkError(f"sql: the process of the question ended with status {status}; narrow it")


def run_query(
    url: str | URL, statement: str, max_rows: int = MAX_ROWS, timeout: float = TIMEOUT_S
) -> QueryResult:
    """Run one SELECT; nothing can be written, attached or created.

    UsageError for a missing database or a statement that is wrong or not allowed; WorkError for
    one that takes longer than `timeout` seconds or more memory than it may. Whatever the statement
    is, the call returns within a second of its deadline.
    """
    return run_limited(url, statement, Limits(max_rows, timeout))


def run_limited(
    url: str | URL,
    statement: str,
    limits: Limits,
    is_unwanted: Callable[[], bool] = lambda: False,
) -> QueryResult:
    """`run_query` under further limits; UnwantedError soon after `is_unwanted` says so."""
    if not statement.strip().rstrip(";").strip():
        raise UsageError("sql: the statement is empty; write a SELECT")
    if "\0" in statement:
        raise UsageError("sql: the statement holds a NUL character; remove it")
    if _has_half_character(statement):
        raise UsageError("sql: the statement holds half of a character; remove it")
    require_existing(url)
    try:
        return _ask(url, statement, limits, is_unwanted)
    except UsageError as error:
        raise _naming_another_verb(error, statement) from None


def _has_half_character(statement: str) -> bool:
    """Whether a surrogate stands alone, which has no UTF-8."""
    return any("\ud800" <= character <= "\udfff" for character in statement)


def _ask(
    url: str | URL, statement: str, limits: Limits, is_unwanted: Callable[[], bool]
) -> QueryResult:
    path = sqlite_file(url)
    if path is not None:
        return ask_in_process("sqlite", str(path.absolute()), statement, limits, is_unwanted)
    if parse_url(url).get_backend_name() == "sqlite":
        raise UsageError("sql: a database in memory cannot be asked; name a file")
    arguments = connection_arguments(url, limits)
    return ask_in_process("postgresql", arguments, statement, limits, is_unwanted)


def _naming_another_verb(error: UsageError, statement: str) -> UsageError:
    """The refusal of a statement that is no question, led by that: it was not mistyped."""
    first = _FIRST_WORD.match(statement)
    refusal = str(error).removeprefix("sql: ")
    if first is None or first[1].lower() in _QUESTION_WORDS or refusal == str(error):
        return error
    return UsageError(
        f'sql: one SELECT statement only, and this begins with "{first[1][:30]}": {refusal}'
    )


def format_result(result: QueryResult, output: str = "table") -> str:
    """The answer as `table`, `csv` (with a header), `spreadsheet` (the same for people: with a
    byte-order mark, and nothing in it runs as a formula) or `json` (an array of objects).

    CSV and JSON are exact; a table is for reading and rounds as `shown_number` does.
    """
    if output in ("csv", "spreadsheet"):
        return _as_csv(result, csv_text if output == "csv" else csv_for_people)
    if output == "json":
        return _as_json(result)
    if output == "table":
        return _as_table(result)
    raise UsageError(f"format: {output!r} is not known; choose table, csv or json")


def _as_csv(result: QueryResult, write: Callable[..., str]) -> str:
    return write(result.columns, ([_plain(value) for value in row] for row in result.rows))


def for_terminal(text: str) -> str:
    """CSV or JSON as a terminal may show it: escape sequences and reordering marks made visible."""
    return visible(text, keep="\n\t")


def _finite(value: Any) -> Any:
    """The value, or None for an infinite or undefined number, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _as_json(result: QueryResult) -> str:
    names = _distinct(result.columns)
    rows = [
        {name: _finite(_plain(value)) for name, value in zip(names, row, strict=True)}
        for row in result.rows
    ]
    text = json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
    # Half of a character has no UTF-8; its escape is the same JSON string.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _as_table(result: QueryResult) -> str:
    cells = [[_cell(value) for value in row] for row in result.rows]
    widths = [
        min(MOST_PADDING, max([len(name), *(len(row[index]) for row in cells)]))
        for index, name in enumerate(result.columns)
    ]
    is_number = [
        any(isinstance(row[index], int | float | Decimal) for row in result.rows)
        for index in range(len(widths))
    ]

    def line(values: Sequence[str]) -> str:
        padded = (
            value.rjust(width) if right else value.ljust(width)
            for value, width, right in zip(values, widths, is_number, strict=True)
        )
        return "  ".join(padded).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(result.columns), rule, *(line(row) for row in cells)]) + "\n"


def _cell(value: Any) -> str:
    """One line without control characters: what a model wrote does not move the cursor."""
    plain = shown_number(_plain(value))
    return "" if plain is None else visible(" ".join(str(plain).split("\n")), keep="")


def shown_number(value: Any) -> Any:
    """A fraction as a reader wants it: six significant digits, and of a million on no decimals.

    Anything but a float or a Decimal is left as it is.
    """
    if not isinstance(value, float | Decimal):
        return value
    number = float(value)
    return f"{number:.0f}" if 1e6 <= abs(number) < 1e15 else f"{number:.6g}"


def _plain(value: Any) -> Any:
    """A value that CSV and JSON can hold, nothing of it rounded."""
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    return value


def _distinct(columns: Sequence[str]) -> list[str]:
    """Column names with a number where one occurs again, so that no JSON key is lost."""
    names: dict[str, None] = {}
    numbers: Counter[str] = Counter()
    for name in columns:
        candidate = name
        while candidate in names:
            numbers[name] += 1
            candidate = f"{name}_{numbers[name] + 1}"
        names[candidate] = None
    return list(names)
