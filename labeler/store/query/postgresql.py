"""Questions to PostgreSQL: a read-only transaction, under a reader's role, of harmless functions.

A read-only transaction alone is no boundary: `pg_read_file`, `lo_import`, `set_config` and
`query_to_xml` are functions that a SELECT may call. So the server first parses the statement as
the body of a temporary view, in a transaction that is rolled back and never runs it; the parse
names every function by its key, and those that the catalog calls volatile are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labeler.errors import UsageError
from labeler.store.query.result import Limits, slow

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy.engine import URL


CONNECT_S = 8
"""Seconds for a server to take the connection."""
_ROWS_AT_ONCE = 200

_PROBE = "difflens_question"
_VOLATILE_FUNCTIONS = """
    SELECT DISTINCT p.proname
    FROM pg_rewrite AS r,
         regexp_matches(r.ev_action::text,
                        ':(?:funcid|opfuncid|aggfnoid|winfnoid|tsmhandler) (\\d+)', 'g') AS used,
         pg_proc AS p
    WHERE r.ev_class = 'pg_temp.difflens_question'::regclass
      AND p.oid = used[1]::oid
      AND (p.provolatile = 'v' OR p.proname ~ '_to_xml')
      AND NOT (p.pronamespace = 'pg_catalog'::regnamespace
               AND p.proname IN ('random', 'clock_timestamp', 'timeofday'))
    ORDER BY p.proname
"""
"""`table_to_xml` and its kin run further queries and are called stable all the same."""
_READER = """
    SELECT quote_ident(rolname) FROM pg_roles
    WHERE rolname = current_database() || '_reader' AND pg_has_role(oid, 'MEMBER')
"""


def ask_postgresql(
    arguments: Mapping[str, Any],
    statement: str,
    limits: Limits,
    connected: Callable[[Callable[[], object]], None],
) -> Iterator[Sequence[Any]]:
    """Run one SELECT on a PostgreSQL database: column names, then rows.

    `connected` is called with what cancels the question on the server.
    """
    import psycopg

    question = statement.strip().rstrip(";")
    try:
        connection = psycopg.connect(**arguments)
    except psycopg.Error as error:
        raise UsageError(f"database.url: cannot connect: {_first_line(error)}") from None
    try:
        with connection:
            connected(connection.cancel)
            _refuse_volatile(connection, question)
            yield from _ask(connection, question)
    except psycopg.errors.QueryCanceled:
        raise slow(limits.timeout_s) from None
    except psycopg.Error as error:
        raise UsageError(f"sql: {_first_line(error)}") from None


def connection_arguments(url: str | URL, limits: Limits) -> dict[str, Any]:
    """What `ask_postgresql` connects with: the study's own arguments and the server's limits."""
    from labeler.store.engine import open_engine

    engine = open_engine(url)
    try:
        given = engine.dialect.create_connect_args(engine.url)[1]
    finally:
        engine.dispose()
    arguments = {name: value for name, value in given.items() if isinstance(value, str | int)}
    milliseconds = max(1, int(limits.timeout_s * 1000))
    options = (
        f"-c default_transaction_read_only=on -c statement_timeout={milliseconds}"
        f" -c lock_timeout={milliseconds}"
        f" -c idle_in_transaction_session_timeout={milliseconds + 10_000}"
    )
    arguments["options"] = f"{arguments.get('options', '')} {options}".strip()
    return {"connect_timeout": CONNECT_S, **arguments}


def _refuse_volatile(connection: psycopg.Connection[Any], question: str) -> None:
    """Let the server parse the question without running it, and look at what it would call."""
    connection.read_only = False
    # Binary results take the extended protocol, which refuses a second statement in the string.
    connection.execute(
        f"CREATE TEMP VIEW {_PROBE} AS SELECT 1 AS one FROM ({question}\n) AS question".encode(),
        binary=True,
    )
    found = [row[0] for row in connection.execute(_VOLATILE_FUNCTIONS)]
    connection.rollback()
    if found:
        raise UsageError(f"sql: only reading is allowed (function {found[0]} may do more)")


def _ask(connection: psycopg.Connection[Any], question: str) -> Iterator[Sequence[Any]]:
    connection.read_only = True
    reader = connection.execute(_READER).fetchone()
    if reader is not None:
        connection.execute(f"SET LOCAL ROLE {reader[0]}".encode())
    # A server-side cursor is declared FOR one SELECT: the server refuses anything else.
    with connection.cursor(name="difflens_sql") as cursor:
        cursor.execute(question.encode())
        yield [column.name for column in cursor.description or ()]
        while rows := cursor.fetchmany(_ROWS_AT_ONCE):
            yield from rows
    connection.rollback()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
