"""Questions to a SQLite file: opened read-only, and every action checked against an allow-list.

SQLite itself names what a statement does while it is prepared, so nothing depends on reading its
words. A read-only file alone would not do: ATTACH and VACUUM INTO write other files, and
`PRAGMA query_only` can be switched off by the statement.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from labeler.errors import UsageError, WorkError
from labeler.store.database_url import file_uri, reading_options
from labeler.store.query.result import Limits, slow, too_hungry

MAX_VALUE_BYTES = 10_000_000
"""Bytes in one value."""
MAX_STATEMENT_BYTES = 200_000
_STEPS_BETWEEN_CHECKS = 1000
_SQLITE_RECURSIVE = 33
"""SQLITE_RECURSIVE of sqlite3.h, which Python's module does not name."""
_ALLOWED_ACTIONS = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, _SQLITE_RECURSIVE}
)
ALLOWED_FUNCTIONS = frozenset({
    "->", "->>", "abs", "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "avg", "ceil",
    "ceiling", "char", "coalesce", "concat", "concat_ws", "cos", "cosh", "count", "cume_dist",
    "current_date", "current_time", "current_timestamp", "date", "datetime", "degrees",
    "dense_rank", "exp", "first_value", "floor", "glob", "group_concat", "hex", "if", "ifnull",
    "iif", "instr", "json", "json_array", "json_array_length", "json_each", "json_extract",
    "json_group_array", "json_group_object", "json_insert", "json_object", "json_patch",
    "json_quote", "json_remove", "json_replace", "json_set", "json_tree", "json_type",
    "json_valid", "julianday", "lag", "last_value", "lead", "length", "like", "ln", "log",
    "log10", "log2", "lower", "ltrim", "max", "median", "min", "mod", "nth_value", "ntile",
    "nullif", "octet_length", "percent_rank", "percentile", "percentile_cont", "percentile_disc",
    "pi", "pow", "power", "quote", "radians", "random", "rank", "replace", "round", "row_number",
    "rtrim", "sign", "sin", "sinh", "soundex", "sqlite_version", "sqrt", "strftime", "string_agg",
    "substr", "substring", "sum", "tan", "tanh", "time", "timediff", "total", "trim", "trunc",
    "typeof", "unhex", "unicode", "unixepoch", "upper",
})  # fmt: skip
"""What a question may call: nothing that reaches outside the database or makes a giant at once.

`printf` and `format` are not among them: a width of a thousand million keeps SQLite busy where no
deadline reaches it.
"""


def ask_sqlite(path: str, statement: str, limits: Limits) -> Iterator[Sequence[Any]]:
    """Run one SELECT on a SQLite file: column names, then rows."""
    file = Path(path)
    uri = f"{file_uri(file)}?{urlencode(reading_options(file))}"
    try:
        with closing(
            sqlite3.connect(uri, uri=True, isolation_level=None, timeout=limits.timeout_s)
        ) as connection:
            _confine(connection, limits)
            cursor = connection.execute(statement)
            if cursor.description is None:
                raise UsageError("sql: only a SELECT is allowed, and it must return columns")
            yield [column[0] for column in cursor.description]
            yield from cursor
    except MemoryError:
        raise too_hungry() from None
    except sqlite3.OperationalError as error:
        if str(error) == "interrupted":
            raise slow(limits.timeout_s) from None
        raise UsageError(f"sql: {error}") from None
    except (sqlite3.DatabaseError, sqlite3.ProgrammingError, sqlite3.Warning) as error:
        if "not authorized" in str(error) or "prohibited" in str(error):
            raise UsageError(f"sql: only reading is allowed ({error})") from None
        if getattr(error, "sqlite_errorname", "").startswith("SQLITE_CORRUPT"):
            raise WorkError(
                f"sql: {path}: {error}; the file is damaged; restore a backup"
            ) from None
        raise UsageError(f"sql: {error}") from None


def _confine(connection: sqlite3.Connection, limits: Limits) -> None:
    """Set the limits; the authorizer comes last, as it refuses the PRAGMAs too."""
    deadline = time.monotonic() + limits.timeout_s
    connection.execute(f"PRAGMA hard_heap_limit = {limits.max_heap_bytes}")
    # Sorting and recursion stay within the memory limit instead of filling a disk.
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA trusted_schema = OFF")
    _declare_json_tables(connection)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
    connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, MAX_STATEMENT_BYTES)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1000)
    connection.set_progress_handler(lambda: int(time.monotonic() > deadline), _STEPS_BETWEEN_CHECKS)
    connection.set_authorizer(_authorize)


def _declare_json_tables(connection: sqlite3.Connection) -> None:
    """Have SQLite declare its JSON tables now: it asks to write to its schema when it does."""
    for name in ("json_each", "json_tree"):
        with suppress(sqlite3.OperationalError):
            connection.execute(f"SELECT 1 FROM {name}('[]')").fetchall()


def _authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    """SQLite's own view of what a statement does: an allow-list of actions and functions."""
    if action not in _ALLOWED_ACTIONS:
        return sqlite3.SQLITE_DENY
    is_function = action == sqlite3.SQLITE_FUNCTION
    if is_function and (second or "").lower() not in ALLOWED_FUNCTIONS:
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK
