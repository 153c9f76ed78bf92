"""Engines and sessions for SQLite and PostgreSQL, database errors in words, PostgreSQL's reader."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic_core import from_json
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.orm import Session

from crosscoder.limits import parse_json
from labeler.errors import UsageError, WorkError, naming_extra
from labeler.store.database_url import (
    file_uri,
    may_write,
    parse_url,
    reading_options,
    shown_url,
    sqlite_file,
    url_in_a_command,
)

_LOCAL = "put the study on a local disk, or in PostgreSQL"
_SQLITE_FIXES = {
    "SQLITE_BUSY": "another process has kept it locked; wait for it, or stop it",
    "SQLITE_CORRUPT": "the file is damaged; restore a backup",
    "SQLITE_FULL": "make room on the disk",
    "SQLITE_IOERR": f"the file system failed, as network shares without locks do; {_LOCAL}",
    "SQLITE_NOLFS": _LOCAL,
    "SQLITE_PROTOCOL": f"the file system does not lock files; {_LOCAL}",
    "SQLITE_READONLY": "the file or its folder may not be written; give yourself the right to",
}
"""Fix by SQLite's error name; longer names (SQLITE_IOERR_LOCK) begin with these."""
BUSY_TIMEOUT_MS = 30_000
READ_ONLY_OPTION = "difflens_read_only"
LONGEST_WAIT_OPTION = "difflens_longest_wait_ms"
INSUFFICIENT_PRIVILEGE = "42501"
"""PostgreSQL's code for a right that the user does not have."""


def database_failure(error: DBAPIError) -> str:
    """One line: the driver's message and the fix."""
    words = str(error.orig).strip().split("\n", maxsplit=1)[0]
    if error.connection_invalidated:
        return f"{words}; the connection is lost, the same command goes on once it is back"
    return "; ".join([words, *_fixes(error.orig)])


def is_damage(error: BaseException) -> bool:
    """Whether SQLite found its file truncated or overwritten."""
    driver = error.orig if isinstance(error, DBAPIError) else error
    return _sqlite_name(driver).startswith("SQLITE_CORRUPT")


def is_locked(error: BaseException) -> bool:
    """Whether another program held a lock for longer than the timeout."""
    driver = error.orig if isinstance(error, DBAPIError) else error
    is_unavailable = getattr(driver, "sqlstate", None) == "55P03"
    return is_unavailable or _sqlite_name(driver).startswith("SQLITE_BUSY")


def unforeseen_failure(error: Exception) -> str | None:
    """One line for an uncaught database error with a known fix; None for any other error.

    A statement that the database rejects is a defect and keeps its traceback.
    """
    if isinstance(error, DBAPIError):
        foreseen = error.connection_invalidated or _is_known(error.orig)
        return f"database: {database_failure(error)}" if foreseen else None
    if isinstance(error, sqlite3.Error) and _is_known(error):
        return f"database: {'; '.join([str(error), *_fixes(error)])}"
    return None


def _is_known(error: BaseException | None) -> bool:
    return bool(_fixes(error))


def _fixes(error: BaseException | None) -> list[str]:
    name = _sqlite_name(error)
    return [fix for start, fix in _SQLITE_FIXES.items() if name.startswith(start)]


def _sqlite_name(error: BaseException | None) -> str:
    return str(getattr(error, "sqlite_errorname", ""))


class WriteLockedError(WorkError):
    """Another program holds a lock on the database; nothing was written."""


def require_existing(url: str | URL) -> None:
    """Raise UsageError where a SQLite file does not exist; nothing is created."""
    path = sqlite_file(url)
    if path is not None and path.is_dir():
        raise UsageError(f"database.url: {path} is a folder; name a file in it")
    if path is not None and not path.is_file():
        raise UsageError(
            f"database.url: no database at {path}; `difflens db upgrade {url_in_a_command(url)}`"
            " makes one"
        )


def open_engine(url: str | URL, create: bool = False) -> Engine:
    """An engine; a SQLite file that is missing is a UsageError unless `create`.

    A file without write permission is opened for reading. WorkError where that is impossible.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "postgresql":
        return _open_postgresql(parsed)
    path = sqlite_file(parsed)
    if path is None:
        engine = create_engine(parsed, json_deserializer=_read_json)
    else:
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        else:
            require_existing(parsed)
        if path.is_file() and not may_write(path):
            return _open_to_read(path)
        file_url = _file_url(path, {"mode": "rwc" if create else "rw"})
        engine = create_engine(file_url, json_deserializer=_read_json)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _open_postgresql(url: URL) -> Engine:
    with naming_extra("database.url"):
        engine = create_engine(url, pool_pre_ping=True)
    event.listen(engine, "begin", _begin_postgresql)
    return engine


def _open_to_read(path: Path) -> Engine:
    """A read-only engine on a file without write permission."""
    file_url = _file_url(path, reading_options(path))
    engine = create_engine(file_url, json_deserializer=_read_json)
    event.listen(engine, "connect", _prepare_reading)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _file_url(path: Path, options: dict[str, str]) -> URL:
    """A URI that states whether SQLite may create the file."""
    return URL.create("sqlite", database=file_uri(path), query={**options, "uri": "true"})


def _prepare_reading(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Set the PRAGMAs; the driver's own transactions are off, because they exclude DDL."""
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    mode = cursor.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode not in ("wal", "memory"):
        raise WorkError(
            "database.url: this file system cannot hold SQLite's write-ahead log, as network"
            " shares often cannot; put the study on a local disk, or in PostgreSQL"
        )
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _read_json(text: str) -> Any:
    """Parse JSON like `json`, but in half the time, which matters for evidence."""
    try:
        return from_json(text)
    except ValueError:
        # Only the standard library reads an escaped lone surrogate.
        return parse_json(text, "a JSON column of the database", any_number=True)


def _begin_sqlite(connection: Connection) -> None:
    """Take the write lock at once, so that two writers queue instead of failing midway."""
    options = connection.get_execution_options()
    if options.get(READ_ONLY_OPTION, False):
        connection.exec_driver_sql("BEGIN")
        return
    longest_wait = options.get(LONGEST_WAIT_OPTION, BUSY_TIMEOUT_MS)
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {longest_wait}")
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin_postgresql(connection: Connection) -> None:
    longest_wait = connection.get_execution_options().get(LONGEST_WAIT_OPTION)
    if longest_wait is not None:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {longest_wait}")


@contextmanager
def write_session(
    engine: Engine, longest_wait_s: float | None = None, dry_run: bool = False
) -> Iterator[Session]:
    """One transaction: committed at the end, rolled back by any exception and with `dry_run`.

    With `longest_wait_s` the transaction is open when the block begins, and WriteLockedError is
    raised where another program holds a lock for longer than that.
    """
    if longest_wait_s is not None:
        longest_wait = {LONGEST_WAIT_OPTION: max(1, int(1000 * longest_wait_s))}
        engine = engine.execution_options(**longest_wait)
    try:
        with Session(engine, expire_on_commit=False) as session, session.begin() as transaction:
            if longest_wait_s is not None:
                session.connection()
            yield session
            if dry_run:
                transaction.rollback()
    except OperationalError as error:
        if longest_wait_s is None or not is_locked(error):
            raise
        raise WriteLockedError(
            f"another program has kept the study's database locked for {longest_wait_s:.0f} s;"
            " nothing was recorded"
        ) from None


@contextmanager
def read_session(engine: Engine) -> Iterator[Session]:
    """A session that reads one snapshot and takes no write lock."""
    with Session(
        engine.execution_options(**{READ_ONLY_OPTION: True}), expire_on_commit=False
    ) as session:
        yield session


def make_reader(url: str | URL, users: Sequence[str] = ()) -> str:
    """Create the role `<database>_reader`, or renew its rights; returns its name.

    The role cannot log in: `difflens sql` assumes it within a transaction, for which the URL's user
    must be a member. The URL's user and `users` become members. UsageError for SQLite, which has no
    roles, where the URL's user may not create one, and for an unknown user.
    """
    if parse_url(url).get_backend_name() != "postgresql":
        raise UsageError("db reader: SQLite has no roles; questions open its file read-only")
    engine = open_engine(url)
    try:
        with engine.begin() as connection:
            return _make(connection, users)
    except ProgrammingError as error:
        words = str(error.orig).strip().split("\n", maxsplit=1)[0]
        raise UsageError(f"db reader: {shown_url(url)}: {words}{_mend(error, url)}") from None
    except OperationalError as error:
        raise UsageError(
            f"database.url: {shown_url(url)} cannot be reached: {database_failure(error)}"
        ) from None
    finally:
        engine.dispose()


def _make(connection: Connection, users: Sequence[str]) -> str:
    quote = connection.dialect.identifier_preparer.quote_identifier
    database, schema = connection.execute(text("SELECT current_database(), current_schema()")).one()
    name = f"{database}_reader"
    found = connection.execute(
        text("SELECT 1 FROM pg_roles WHERE rolname = :name"), {"name": name}
    ).first()
    role, place = quote(name), quote(schema)
    members = ", ".join(["CURRENT_USER", *map(quote, users)])
    statements = [] if found else [f"CREATE ROLE {role} NOLOGIN"]
    statements += [
        f"GRANT {role} TO {members}",
        f"GRANT USAGE ON SCHEMA {place} TO {role}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA {place} TO {role}",
    ]
    # Default privileges cover tables that the present owner creates later.
    owners = connection.execute(
        text("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = :schema"),
        {"schema": schema},
    ).scalars()
    statements += [
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {quote(owner)} IN SCHEMA {place} "
        f"GRANT SELECT ON TABLES TO {role}"
        for owner in owners
    ]
    for statement in statements:
        connection.exec_driver_sql(statement)
    return name


def _mend(error: ProgrammingError, url: str | URL) -> str:
    """Advice where the study's user may not create roles."""
    if getattr(error.orig, "sqlstate", None) != INSUFFICIENT_PRIVILEGE:
        return ""
    user = parse_url(url).username or "USER"
    return f"; as an administrator: difflens db reader ADMINISTRATORS_URL --to {user}"
