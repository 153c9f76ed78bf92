"""One question to a study's database, read-only by construction on either kind."""

from __future__ import annotations

import re
from collections.abc import Callable

from sqlalchemy.engine import URL

from labeler.database_url import parse_url, sqlite_file
from labeler.errors import UsageError
from labeler.sql.postgresql import connection_arguments
from labeler.sql.process import ask_in_process
from labeler.sql.result import MAX_ROWS, TIMEOUT_S, Limits, QueryResult
from labeler.store.engine import require_existing

_FIRST_WORD = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?\*/|[(;])*+(\w+)", re.DOTALL)
_QUESTION_WORDS = frozenset({"select", "with", "values", "table"})


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
