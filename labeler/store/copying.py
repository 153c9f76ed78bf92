"""Copies a study's database to another one, between SQLite and PostgreSQL or within either."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, Integer, Table, func, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError

from crosscoder.progress import Progress, SilentProgress
from labeler.database_url import parse_url, shown_url, sqlite_file
from labeler.errors import UsageError, WorkError
from labeler.store import migrate
from labeler.store.bulk import count_values, write_rows
from labeler.store.digests import ROWS_AT_ONCE, RunningDigest, TableDigest, digest_table
from labeler.store.engine import READ_ONLY_OPTION, open_engine, require_existing
from labeler.store.schema import metadata
from labeler.store.triggers import create_triggers, drop_triggers


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
    """Copy every row with its keys, then compare the checksums of every table; all or nothing.

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
    """A connection that sees one state of the database, whoever writes meanwhile."""
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
    """Copy all rows in the order of their keys: a row refers to earlier rows of its table only."""
    digest = RunningDigest(table)
    query = select(table).order_by(*table.primary_key.columns)
    with source.execution_options(yield_per=ROWS_AT_ONCE).execute(query) as rows:
        for part in rows.partitions():
            digest.add(part)
            write_rows(target, table, part)
            advance(len(part))
    return digest.result()


def _continue_keys(connection: Connection) -> None:
    """Let PostgreSQL's sequences go on after the copied keys; SQLite does so by itself."""
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
