"""The registry of views: the contract for people who write SQL.

Views are not part of a migration. They are dropped before every upgrade and created again after
it, because SQLite refuses to rebuild a table that a view reads.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from sqlalchemy import Connection, inspect, text

from labeler.store.triggers import definitions
from labeler.store.views import behaviour, change, coverage, effects, labels, review, scores
from labeler.store.views.base import View

VIEWS: tuple[View, ...] = (
    *labels.VIEWS,
    *effects.VIEWS,
    *behaviour.VIEWS,
    *change.VIEWS,
    *coverage.VIEWS,
    *review.VIEWS,
    *change.ROBUSTNESS_VIEWS,
    *scores.VIEWS,
)
"""All views, in an order in which they can be created."""

_FINGERPRINT = "v_definitions"
"""A view with one row: the hash of the installed views and triggers."""


@dataclass(frozen=True)
class ForeignView:
    """A user's own view in the database."""

    name: str
    statement: str


def definitions_sha256() -> str:
    """Hash of all views and triggers of this version."""
    parts = [f"{view.name}:{view.select}" for view in VIEWS]
    parts += [*definitions("sqlite"), *definitions("postgresql")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def installed_definitions_sha256(connection: Connection) -> str | None:
    """Hash of the views and triggers the database has; None where they are missing."""
    if _FINGERPRINT not in inspect(connection).get_view_names():
        return None
    return str(connection.execute(text(f"SELECT sha256 FROM {_FINGERPRINT}")).scalar_one())


def create_views(connection: Connection) -> None:
    """Create every view."""
    for view in VIEWS:
        connection.execute(text(f"CREATE VIEW {view.name} AS {view.select}"))
    connection.execute(
        text(f"CREATE VIEW {_FINGERPRINT} AS SELECT '{definitions_sha256()}' AS sha256")
    )


def drop_views(connection: Connection) -> list[ForeignView]:
    """Drop all views; returns those that are not difflens' own, for `restore_foreign_views`."""
    own = {view.name for view in VIEWS} | {_FINGERPRINT}
    present = _sqlite_views(connection) if _is_sqlite(connection) else _pg_views(connection)
    for view in reversed(present):
        connection.execute(text(f'DROP VIEW "{view.name}"'))
    return [view for view in present if view.name not in own]


def restore_foreign_views(connection: Connection, views: list[ForeignView]) -> None:
    """Create users' own views again, in their original order."""
    for view in views:
        connection.exec_driver_sql(view.statement)


def _is_sqlite(connection: Connection) -> bool:
    return connection.dialect.name == "sqlite"


def _sqlite_views(connection: Connection) -> list[ForeignView]:
    rows = connection.execute(
        text("SELECT name, sql FROM sqlite_master WHERE type = 'view' ORDER BY rowid")
    )
    return [ForeignView(name, statement) for name, statement in rows]


def _pg_views(connection: Connection) -> list[ForeignView]:
    rows = connection.execute(
        text(
            "SELECT c.relname, pg_get_viewdef(c.oid) FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind = 'v' AND n.nspname = current_schema() ORDER BY c.oid"
        )
    )
    return [
        ForeignView(name, f'CREATE VIEW "{name}" AS {definition}'.replace("%", "%%"))
        for name, definition in rows
    ]
