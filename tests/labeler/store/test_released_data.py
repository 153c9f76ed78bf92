"""Databases of every released revision, with rows in every table, brought to the newest one."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import DateTime, MetaData, Table, create_engine, insert, select, text
from sqlalchemy.exc import DatabaseError

from labeler.database_url import parse_url
from labeler.store import migrate
from labeler.store.engine import open_engine
from labeler.store.migration_scripts import alembic_config
from labeler.store.schema import UtcDateTime, metadata
from labeler.store.views import VIEWS

MOMENTARY = {"work_item"}
"""Claims of workers, void as soon as no worker runs; an upgrade may drop them."""
RELEASED = sorted((Path(__file__).parent / "released").glob("*.jsonl"))


def rows_of(file: Path) -> dict[str, list[dict[str, Any]]]:
    tables: dict[str, list[dict[str, Any]]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        tables.setdefault(entry["table"], []).append(entry["row"])
    return tables


def typed(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    """The row with its moments, which JSON holds as text, as the database takes them."""
    moments = {
        column.name for column in table.columns if isinstance(column.type, DateTime | UtcDateTime)
    }
    return {
        key: datetime.fromisoformat(value) if key in moments and value is not None else value
        for key, value in row.items()
    }


def restore(url: str, file: Path) -> None:
    """A database at the file's revision with the file's rows."""
    migrate.upgrade(url)
    migrate.downgrade(url, "base", backup=False)
    command.upgrade(alembic_config(url), file.stem)
    engine = create_engine(parse_url(url))
    with engine.begin() as connection:
        present = MetaData()
        present.reflect(connection)
        tables = rows_of(file)
        for table in present.sorted_tables:
            if rows := tables.get(table.name):
                connection.execute(insert(table), [typed(table, row) for row in rows])
    engine.dispose()


@pytest.mark.parametrize("file", RELEASED, ids=lambda path: path.stem)
def test_every_row_of_a_released_revision_survives_the_upgrade(empty_url: str, file: Path) -> None:
    restore(empty_url, file)
    migrate.upgrade(empty_url, backup=False)
    assert migrate.check(empty_url) == []
    engine = open_engine(empty_url)
    with engine.connect() as connection:
        for name, expected in rows_of(file).items():
            if name in MOMENTARY:
                continue
            table = metadata.tables[name]
            keys = [key for key in expected[0] if key in table.columns]
            found = connection.execute(
                select(*(table.c[key] for key in keys)).order_by(*table.primary_key.columns)
            )
            kept = [{key: typed(table, row)[key] for key in keys} for row in expected]
            assert [dict(row) for row in found.mappings()] == kept, name
        for view in VIEWS:
            connection.execute(text(f"SELECT * FROM {view.name}")).all()
    engine.dispose()


@pytest.mark.parametrize("file", RELEASED, ids=lambda path: path.stem)
def test_decisions_are_append_only_after_the_upgrade(empty_url: str, file: Path) -> None:
    restore(empty_url, file)
    migrate.upgrade(empty_url, backup=False)
    engine = open_engine(empty_url)
    with (
        pytest.raises(DatabaseError, match="append-only"),
        engine.begin() as connection,
    ):
        connection.execute(text("UPDATE review_event SET reviewer = 'eve'"))
    engine.dispose()
