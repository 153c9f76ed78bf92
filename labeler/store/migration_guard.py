"""The connection that migrations run on: one transaction, no views or triggers in the way.

On SQLite a rebuilt table loses its triggers, cannot be read by a view, and with foreign keys on
deletes its children; and the driver's own transactions do not cover DDL. So: BEGIN IMMEDIATE,
foreign keys off, views and triggers dropped, the steps, views and triggers made again, foreign
keys checked, commit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from alembic.migration import MigrationContext
from sqlalchemy import Connection, event, text
from sqlalchemy.engine import URL

from labeler.errors import WorkError
from labeler.store.engine import open_engine
from labeler.store.migration_scripts import head_revision
from labeler.store.triggers import create_triggers, drop_triggers
from labeler.store.views import create_views, drop_views, restore_foreign_views

_ADVISORY_LOCK = 7_345_201_906


@contextmanager
def guarded_connection(url: str | URL) -> Iterator[Connection]:
    """A connection for migrations; everything is committed at the end or rolled back."""
    engine = open_engine(url, create=True)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _foreign_keys_off)
    try:
        with engine.connect() as connection, connection.begin():
            if connection.dialect.name == "postgresql":
                connection.execute(
                    text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK}
                )
            drop_triggers(connection)
            foreign_views = drop_views(connection)
            yield connection
            if _revision(connection) == head_revision():
                create_triggers(connection)
                create_views(connection)
                restore_foreign_views(connection, foreign_views)
            _check_foreign_keys(connection)
    finally:
        engine.dispose()


def _foreign_keys_off(connection: object, _record: object) -> None:
    connection.execute("PRAGMA foreign_keys = OFF")  # type: ignore[attr-defined]


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _check_foreign_keys(connection: Connection) -> None:
    if connection.dialect.name != "sqlite":
        return
    broken = connection.execute(text("PRAGMA foreign_key_check")).all()
    if broken:
        tables = ", ".join(sorted({row[0] for row in broken}))
        raise WorkError(f"migration: {len(broken)} rows lost their parent in {tables}; undone")
