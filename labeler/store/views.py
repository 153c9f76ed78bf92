"""The registry of views: the contract for people who write SQL.

Views are no part of a migration: they are dropped before and made again after every upgrade,
because SQLite refuses to rebuild a table that a view reads.
"""

from __future__ import annotations

from sqlalchemy import Connection, inspect, text

from labeler.store.view_definitions import change, labels, review
from labeler.store.view_definitions.base import View

VIEWS: tuple[View, ...] = (*labels.VIEWS, *change.VIEWS, *review.VIEWS)
"""All views, in an order in which they can be made."""

_PREFIX = "v_"


def create_views(connection: Connection) -> None:
    """Create every view."""
    for view in VIEWS:
        connection.execute(text(f"CREATE VIEW {view.name} AS {view.select}"))


def drop_views(connection: Connection) -> None:
    """Drop every view of this database whose name starts with `v_`, whichever release made it."""
    names = [name for name in inspect(connection).get_view_names() if name.startswith(_PREFIX)]
    for name in reversed(names):
        connection.execute(text(f'DROP VIEW IF EXISTS "{name}"'))
