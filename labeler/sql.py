"""Read-only questions to the database, and how their answers are printed."""

from __future__ import annotations

import csv
import io
import json
import math
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy.engine import URL

from labeler.errors import UsageError, WorkError
from labeler.store.engine import open_engine, parse_url, require_existing, sqlite_file

MAX_ROWS = 10_000
TIMEOUT_S = 30.0
MAX_VALUE_BYTES = 50_000_000
_STEPS_BETWEEN_CHECKS = 1000
_SQLITE_RECURSIVE = 33
"""SQLITE_RECURSIVE of sqlite3.h, which Python's module does not name."""
_ALLOWED_ACTIONS = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    _SQLITE_RECURSIVE,
}
_DENIED_FUNCTIONS = {
    "load_extension", "readfile", "writefile", "edit", "fts3_tokenizer", "zeroblob", "randomblob",
}  # fmt: skip
"""Functions that reach outside the database, or make giant values at once."""


@dataclass(frozen=True)
class QueryResult:
    """The answer to one question."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    truncated: bool
    """Whether there were more rows than asked for."""


def run_query(
    url: str | URL, statement: str, max_rows: int = MAX_ROWS, timeout: float = TIMEOUT_S
) -> QueryResult:
    """Run one SELECT; nothing can be written, attached or created.

    UsageError for a missing database or a statement that is wrong or not allowed; WorkError for
    one that takes longer than `timeout` seconds.
    """
    if not statement.strip().rstrip(";").strip():
        raise UsageError("sql: the statement is empty; write a SELECT")
    require_existing(url)
    path = sqlite_file(url)
    if path is not None:
        return _run_sqlite(path, statement, max_rows, timeout)
    if parse_url(url).get_backend_name() == "sqlite":
        raise UsageError("sql: a database in memory cannot be asked; name a file")
    return _run_postgresql(url, statement, max_rows, timeout)


def _run_sqlite(path: Path, statement: str, max_rows: int, timeout: float) -> QueryResult:
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"
    deadline = time.monotonic() + timeout
    try:
        with closing(
            sqlite3.connect(uri, uri=True, isolation_level=None, timeout=timeout)
        ) as connection:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
            connection.set_authorizer(_authorize)
            connection.set_progress_handler(
                lambda: int(time.monotonic() > deadline), _STEPS_BETWEEN_CHECKS
            )
            cursor = connection.execute(statement)
            if cursor.description is None:
                raise UsageError("sql: only a SELECT is allowed, and it must return columns")
            rows = cursor.fetchmany(max_rows + 1)
            columns = [column[0] for column in cursor.description]
    except sqlite3.OperationalError as error:
        if str(error) == "interrupted":
            raise WorkError(_slow(timeout)) from None
        raise UsageError(f"sql: {error}") from None
    except (sqlite3.DatabaseError, sqlite3.ProgrammingError, sqlite3.Warning) as error:
        if "not authorized" in str(error) or "prohibited" in str(error):
            raise UsageError(f"sql: only reading is allowed ({error})") from None
        raise UsageError(f"sql: {error}") from None
    return _result(columns, rows, max_rows)


def _authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    """SQLite's own view of what a statement does: an allow-list, not a look at its words."""
    if action not in _ALLOWED_ACTIONS:
        return sqlite3.SQLITE_DENY
    is_function = action == sqlite3.SQLITE_FUNCTION
    if is_function and (second or "").lower() in _DENIED_FUNCTIONS:
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


def _run_postgresql(url: str | URL, statement: str, max_rows: int, timeout: float) -> QueryResult:
    import psycopg

    engine = open_engine(url)
    options = f"-c default_transaction_read_only=on -c statement_timeout={int(timeout * 1000)}"
    try:
        connect = engine.dialect.create_connect_args(engine.url)[1]
        connect["options"] = f"{connect.get('options', '')} {options}".strip()
        with psycopg.connect(**connect) as connection:
            connection.read_only = True
            # A server-side cursor is declared FOR one SELECT: the server itself refuses
            # anything else, several statements in one string among it.
            with connection.cursor(name="difflens_sql") as cursor:
                cursor.execute(statement.strip().rstrip(";").encode())
                rows = cursor.fetchmany(max_rows + 1)
                columns = [column.name for column in cursor.description or ()]
            connection.rollback()
    except psycopg.errors.QueryCanceled:
        raise WorkError(_slow(timeout)) from None
    except psycopg.OperationalError as error:
        raise UsageError(f"database.url: cannot connect: {_first_line(error)}") from None
    except psycopg.Error as error:
        raise UsageError(f"sql: {_first_line(error)}") from None
    finally:
        engine.dispose()
    return _result(columns, rows, max_rows)


def _slow(timeout: float) -> str:
    return f"sql: stopped after {timeout:g} s; narrow the question or raise --timeout"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _result(columns: Sequence[str], rows: Sequence[Sequence[Any]], max_rows: int) -> QueryResult:
    kept = tuple(tuple(row) for row in rows[:max_rows])
    return QueryResult(tuple(columns), kept, truncated=len(rows) > max_rows)


def format_result(result: QueryResult, output: str = "table") -> str:
    """The answer as `table`, `csv` (with a header) or `json` (an array of objects); unrounded."""
    if output == "csv":
        return _as_csv(result)
    if output == "json":
        return _as_json(result)
    if output == "table":
        return _as_table(result)
    raise UsageError(f"format: {output!r} is not known; choose table, csv or json")


def _as_csv(result: QueryResult) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(result.columns)
    writer.writerows([[_plain(value) for value in row] for row in result.rows])
    return buffer.getvalue()


def _finite(value: Any) -> Any:
    """The value, or None for an infinite or undefined number, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _as_json(result: QueryResult) -> str:
    names = _distinct(result.columns)
    rows = [
        {name: _finite(_plain(value)) for name, value in zip(names, row, strict=True)}
        for row in result.rows
    ]
    return json.dumps(rows, ensure_ascii=False, indent=1) + "\n"


def _as_table(result: QueryResult) -> str:
    cells = [[_cell(value) for value in row] for row in result.rows]
    widths = [
        max([len(name), *(len(row[index]) for row in cells)])
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
    plain = _plain(value)
    return "" if plain is None else " ".join(str(plain).split("\n"))


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
    names: list[str] = []
    for name in columns:
        candidate, number = name, 2
        while candidate in names:
            candidate, number = f"{name}_{number}", number + 1
        names.append(candidate)
    return names
