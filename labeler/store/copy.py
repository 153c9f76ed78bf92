"""Copies a study's database to another one, between SQLite and PostgreSQL or within either."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Integer, Table, func, insert, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError
from sqlalchemy.types import TypeEngine

from crosscoder.progress import Progress, SilentProgress
from labeler.errors import UsageError, WorkError
from labeler.store import migrate
from labeler.store.database_url import parse_url, shown_url, sqlite_file
from labeler.store.engine import READ_ONLY_OPTION, open_engine, require_existing
from labeler.store.schema import metadata
from labeler.store.schema.base import matrix_text
from labeler.store.triggers import create_triggers, drop_triggers


def write_rows(connection: Connection, table: Table, rows: Sequence[Sequence[Any]]) -> None:
    """Insert rows, as values of every column in the table's order: by COPY on PostgreSQL."""
    if connection.dialect.name == "postgresql":
        _copy_rows(connection, table, rows)
    elif rows:
        names = [column.name for column in table.columns]
        connection.execute(insert(table), [dict(zip(names, row, strict=True)) for row in rows])


def count_values(connection: Connection) -> None:
    """Update PostgreSQL's planner statistics for this transaction's rows; SQLite needs none.

    PostgreSQL does so by itself only once a minute, and until then treats new tables as empty.
    """
    if connection.dialect.name == "postgresql":
        quote = connection.dialect.identifier_preparer.quote
        names = ", ".join(quote(table.name) for table in metadata.sorted_tables)
        connection.execute(text(f"ANALYZE {names}"))


def _copy_rows(connection: Connection, table: Table, rows: Sequence[Sequence[Any]]) -> None:
    columns = list(table.columns)
    quote = connection.dialect.identifier_preparer.quote
    names = ", ".join(quote(column.name) for column in columns)
    processors = [_processor(connection, column.type) for column in columns]
    driver: Any = connection.connection.driver_connection
    with (
        driver.cursor() as cursor,
        cursor.copy(f"COPY {quote(table.name)} ({names}) FROM STDIN") as copy,
    ):
        for row in rows:
            copy.write_row([bound(value) for bound, value in zip(processors, row, strict=True)])


def _processor(connection: Connection, kind: TypeEngine[Any]) -> Callable[[Any], Any]:
    """SQLAlchemy's conversion of a value of this type for the driver."""
    dialect = connection.dialect
    return kind.dialect_impl(dialect).bind_processor(dialect) or _unchanged


def _unchanged(value: Any) -> Any:
    return value


ROWS_AT_ONCE = 2_000


@dataclass(frozen=True)
class TableDigest:
    """How many rows a table has, and the hash of all their values."""

    table: str
    rows: int
    sha256: str


class RunningDigest:
    """The hash of a table's rows, taken part by part in the order of their primary key."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._rows = 0
        self._hash = hashlib.sha256()
        self._encode = json.JSONEncoder(
            sort_keys=True, separators=(",", ":"), default=_plain
        ).encode

    def add(self, rows: Sequence[Iterable[Any]]) -> None:
        """Take the next rows, as values in the order of the table's columns."""
        if rows:
            # One call per part: rows have the same separator within and between parts.
            words = self._encode([list(row) for row in rows])
            self._hash.update(f"{words[1:-1]},".encode())
            self._rows += len(rows)

    def result(self) -> TableDigest:
        """The digest of the rows so far."""
        return TableDigest(self._table.name, self._rows, self._hash.hexdigest())


def digest_table(connection: Connection, table: Table) -> TableDigest:
    """Hash of a table's rows in the order of their primary key."""
    digest = RunningDigest(table)
    query = select(table).order_by(*table.primary_key.columns)
    with connection.execution_options(yield_per=ROWS_AT_ONCE).execute(query) as rows:
        for part in rows.partitions():
            digest.add(part)
    return digest.result()


def _plain(value: object) -> str:
    """JSON form of a time or a matrix; TypeError for any other type."""
    import numpy as np

    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds")
    if isinstance(value, np.ndarray):
        return matrix_text(value)
    raise TypeError(f"no checksum for {type(value).__name__}")


@dataclass(frozen=True)
class CopyResult:
    """What was copied, table by table; the target's checksums equal the source's."""

    tables: tuple[TableDigest, ...]

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(table.rows for table in self.tables)


def copy_database(
    source: str | URL, target: str | URL, progress: Progress | None = None
) -> CopyResult:
    """Copy every row with its keys and compare the checksums of every table; all or nothing.

    UsageError where the source is missing or of another revision, or where the target holds a
    study; WorkError where writing fails or a checksum differs: then the target has no rows.
    """
    if _identity(source) == _identity(target):
        raise UsageError("db copy: FROM and TO are the same database; name another one")
    require_existing(source)
    migrate.require_current(source)
    migrate.upgrade(target)
    with _engine(source) as reading, _engine(target) as writing:
        try:
            return _copy(reading, writing, progress or SilentProgress())
        except DatabaseError as error:
            words = str(error.orig).strip().split("\n", maxsplit=1)[0]
            raise WorkError(f"db copy: {words}; {shown_url(target)} has no rows") from error


def _identity(url: str | URL) -> str | Path:
    path = sqlite_file(url)
    if path is not None:
        return path.resolve()
    return parse_url(url).render_as_string(hide_password=False)


@contextmanager
def _engine(url: str | URL) -> Iterator[Engine]:
    engine = open_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def _copy(source: Engine, target: Engine, progress: Progress) -> CopyResult:
    with _snapshot(source) as reading, target.connect() as writing, writing.begin():
        _require_empty(writing)
        total = sum(_count(reading, table) for table in metadata.sorted_tables)
        drop_triggers(writing)
        copied: list[TableDigest] = []
        with progress.task("copy", total, "rows") as advance:
            for table in metadata.sorted_tables:
                copied.append(_copy_table(reading, writing, table, advance))
        _continue_keys(writing)
        create_triggers(writing)
        count_values(writing)
        for expected in copied:
            _require_equal(writing, expected)
        return CopyResult(tuple(copied))


@contextmanager
def _snapshot(engine: Engine) -> Iterator[Connection]:
    """A connection with one snapshot of the database, whoever writes meanwhile."""
    options: dict[str, object] = {READ_ONLY_OPTION: True}
    if engine.dialect.name == "postgresql":
        options["isolation_level"] = "REPEATABLE READ"
    with closing(engine.execution_options(**options).connect()) as connection:
        yield connection


def _count(connection: Connection, table: Table) -> int:
    return connection.execute(select(func.count()).select_from(table)).scalar_one()


def _require_empty(connection: Connection) -> None:
    for table in metadata.sorted_tables:
        if connection.execute(select(1).select_from(table).limit(1)).first() is not None:
            shown = shown_url(connection.engine.url)
            raise UsageError(
                f"db copy: {shown} holds a study already (table {table.name}); "
                "name an empty database"
            )


def _copy_table(
    source: Connection, target: Connection, table: Table, advance: Callable[[int], None]
) -> TableDigest:
    """Copy all rows by primary key, because rows refer to earlier rows of their table."""
    digest = RunningDigest(table)
    query = select(table).order_by(*table.primary_key.columns)
    with source.execution_options(yield_per=ROWS_AT_ONCE).execute(query) as rows:
        for part in rows.partitions():
            digest.add(part)
            write_rows(target, table, part)
            advance(len(part))
    return digest.result()


def _continue_keys(connection: Connection) -> None:
    """Set PostgreSQL's sequences after the copied keys; SQLite does so by itself."""
    if connection.dialect.name != "postgresql":
        return
    for table in metadata.sorted_tables:
        column = table.autoincrement_column
        if column is None or not isinstance(column.type, Integer):
            continue
        highest = connection.execute(select(func.max(column))).scalar_one()
        if highest is not None:
            connection.execute(
                text("SELECT setval(pg_get_serial_sequence(:table, :column), :value)"),
                {"table": table.name, "column": column.name, "value": highest},
            )


def _require_equal(connection: Connection, expected: TableDigest) -> None:
    found = digest_table(connection, metadata.tables[expected.table])
    if expected != found:
        raise WorkError(
            f"db copy: table {expected.table} differs after copying "
            f"({expected.rows} rows, {found.rows} copied); nothing was kept"
        )
