"""The traps of SQLite's batch mode, each met by a migration that steps into it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from seeding import assert_table_equals_view, decide, label, rows, seed
from sqlalchemy import inspect, text
from sqlalchemy.exc import DatabaseError

from labeler.errors import WorkError
from labeler.store import migrate
from labeler.store import migrate as migration_scripts
from labeler.store.engine import open_engine, read_session, write_session

REBUILD_PARENT = """
    with op.batch_alter_table("latent", recreate=recreate()) as batch:
        batch.add_column(sa.Column("note", sa.Text(), nullable=True))
"""
REBUILD_EVENTS = """
    with op.batch_alter_table("review_event", recreate=recreate()) as batch:
        batch.alter_column("reason", type_=sa.String(128), existing_type=sa.String(64))
"""
NOTHING = "    pass"
HEAD = migration_scripts.head_revision()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the migrations that a test may add to."""
    copy = tmp_path / "migrations"
    shutil.copytree(
        migration_scripts.scripts_folder(), copy, ignore=shutil.ignore_patterns("__pycache__")
    )
    monkeypatch.setattr(migration_scripts, "scripts_folder", lambda: copy)
    return copy


def add_revision(folder: Path, upgrade: str, downgrade: str = NOTHING) -> None:
    """A revision after the newest; `recreate()` makes SQLite rebuild the whole table."""
    (folder / "versions" / "9001_test.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f'revision = "9001"\ndown_revision = "{HEAD}"\nbranch_labels = None\ndepends_on = None\n'
        "\n\ndef recreate():\n"
        "    is_sqlite = op.get_context().dialect.name == 'sqlite'\n"
        "    return 'always' if is_sqlite else 'never'\n"
        f"\n\ndef upgrade():\n{upgrade}\n\n\ndef downgrade():\n{downgrade}\n",
        encoding="utf-8",
    )


def fill(url: str) -> None:
    """Rows in parents and children: latents, labels, decisions."""
    engine = open_engine(url)
    with write_session(engine) as session:
        data = seed(session)
        label(session, data, data.target[0], ["safety", "lists"])
        decide(session, data, data.target[1], "humour")
    engine.dispose()


def contents(url: str) -> dict[str, list[object]]:
    """Every row of every table but the bookkeeping of migrations."""
    engine = open_engine(url)
    with engine.connect() as connection:
        tables = [name for name in inspect(connection).get_table_names() if "alembic" not in name]
        found = {
            name: sorted(
                str(tuple(row)) for row in connection.execute(text(f'SELECT * FROM "{name}"'))
            )
            for name in tables
        }
    engine.dispose()
    return found


def test_a_table_that_views_read_can_be_rebuilt(database_url: str, folder: Path) -> None:
    fill(database_url)
    add_revision(folder, REBUILD_PARENT)
    migrate.upgrade(database_url, backup=False)
    assert migrate.current(database_url) == "9001"
    engine = open_engine(database_url)
    with read_session(engine) as session:
        assert_table_equals_view(session)
        assert rows(session, "SELECT count(*) FROM v_effective_label") == [(5,)]
    engine.dispose()


def test_a_rebuilt_table_keeps_its_triggers(database_url: str, folder: Path) -> None:
    fill(database_url)
    add_revision(folder, REBUILD_EVENTS)
    migrate.upgrade(database_url, backup=False)
    engine = open_engine(database_url)
    with engine.connect() as connection, pytest.raises(DatabaseError, match="append-only"):
        connection.execute(text("DELETE FROM review_event"))
    engine.dispose()


def test_a_rebuilt_parent_keeps_its_children(database_url: str, folder: Path) -> None:
    fill(database_url)
    before = contents(database_url)
    add_revision(folder, REBUILD_PARENT)
    migrate.upgrade(database_url, backup=False)
    after = contents(database_url)
    assert {name: len(values) for name, values in after.items()} == {
        name: len(values) for name, values in before.items()
    }
    unchanged = set(before) - {"latent"}
    assert {name: after[name] for name in unchanged} == {name: before[name] for name in unchanged}


def test_a_rebuilt_table_keeps_its_named_checks(database_url: str, folder: Path) -> None:
    add_revision(folder, REBUILD_EVENTS)
    migrate.upgrade(database_url, backup=False)
    assert [line for line in migrate.check(database_url) if "CHECK" in line] == []


def test_a_failing_migration_leaves_the_previous_revision_whole(
    database_url: str, folder: Path
) -> None:
    fill(database_url)
    before = contents(database_url)
    add_revision(
        folder,
        '    op.create_table("half_made", sa.Column("id", sa.Integer()))\n'
        '    op.execute("INSERT INTO no_such_table VALUES (1)")',
    )
    with pytest.raises((DatabaseError, WorkError)):
        migrate.upgrade(database_url, backup=False)
    assert migrate.current(database_url) == HEAD
    assert contents(database_url) == before
    (folder / "versions" / "9001_test.py").unlink()
    assert migrate.check(database_url) == []


@pytest.mark.slow
def test_rows_that_lose_their_parent_stop_the_migration(sqlite_url: str, folder: Path) -> None:
    fill(sqlite_url)
    before = contents(sqlite_url)
    add_revision(folder, '    op.execute("DELETE FROM latent WHERE latent_index = 0")')
    with pytest.raises(WorkError, match="rows lost their parent in"):
        migrate.upgrade(sqlite_url, backup=False)
    assert contents(sqlite_url) == before


def test_up_and_down_with_rows_in_the_tables(database_url: str, folder: Path) -> None:
    fill(database_url)
    before = contents(database_url)
    add_revision(
        folder,
        REBUILD_PARENT,
        '    with op.batch_alter_table("latent") as batch:\n        batch.drop_column("note")',
    )
    migrate.upgrade(database_url, backup=False)
    migrate.downgrade(database_url, HEAD, backup=False)
    assert contents(database_url) == before
    migrate.upgrade(database_url, backup=False)
    migrate.downgrade(database_url, "base", backup=False)
    assert contents(database_url) == {}


def test_a_backup_is_written_before_the_steps_and_is_whole(sqlite_url: str, folder: Path) -> None:
    fill(sqlite_url)
    before = contents(sqlite_url)
    add_revision(folder, REBUILD_PARENT)
    backup = migrate.upgrade(sqlite_url)
    assert backup is not None
    assert backup.name.startswith(f"study.db.backup-{HEAD}-")
    assert contents(f"sqlite:///{backup}") == before
    assert migrate.current(f"sqlite:///{backup}") == HEAD


def test_an_older_database_is_named_with_the_command_to_run(sqlite_url: str, folder: Path) -> None:
    add_revision(folder, REBUILD_PARENT)
    message = (
        f"is at revision {HEAD}, this version of difflens needs 9001; run `difflens db upgrade"
    )
    with pytest.raises(ValueError, match=message):
        migrate.require_current(sqlite_url)


def test_views_of_other_people_survive(database_url: str, folder: Path) -> None:
    fill(database_url)
    engine = open_engine(database_url)
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE VIEW mine AS SELECT category FROM v_effective_label"
                " WHERE category LIKE 's%'"
            )
        )
        connection.execute(text("CREATE VIEW v_mine AS SELECT category FROM mine"))
    add_revision(folder, REBUILD_PARENT)
    migrate.upgrade(database_url, backup=False)
    with read_session(engine) as session:
        assert rows(session, "SELECT category FROM v_mine") == [("safety",)]
    engine.dispose()
