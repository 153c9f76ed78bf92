from __future__ import annotations

import sqlite3
import uuid
from contextlib import closing
from pathlib import Path

import pytest
from postgres import fresh_database
from sqlalchemy import text
from sqlalchemy.engine import URL

from labeler.errors import UsageError
from labeler.store import migrate
from labeler.store.engine import open_engine
from labeler.store.migrate import head_revision, scripts
from labeler.store.views import VIEWS


def execute(url: str, *statements: str) -> None:
    engine = open_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def test_upgrade_of_an_empty_database_reaches_the_newest_revision(empty_url: str) -> None:
    assert migrate.upgrade(empty_url) is None
    assert migrate.current(empty_url) == head_revision()
    migrate.require_current(empty_url)


def test_check_finds_nothing_in_a_database_that_was_upgraded(database_url: str) -> None:
    assert migrate.check(database_url) == []


def test_check_names_a_missing_view_and_a_missing_trigger(sqlite_url: str) -> None:
    execute(
        sqlite_url, "DROP VIEW v_category_change", "DROP TRIGGER tr_difflens_review_event_DELETE"
    )
    found = migrate.check(sqlite_url)
    assert "missing view v_category_change" in found
    assert "missing trigger tr_difflens_review_event_DELETE" in found


def test_check_names_a_column_that_no_model_declares(database_url: str) -> None:
    execute(database_url, "ALTER TABLE latent ADD COLUMN stray INTEGER")
    assert any("stray" in line for line in migrate.check(database_url))


def test_stairway_up_down_up_leaves_no_trace(empty_url: str) -> None:
    for script in scripts().walk_revisions():
        migrate.upgrade(empty_url)
        migrate.downgrade(empty_url, script.down_revision or "base", backup=False)
    assert migrate.current(empty_url) is None
    migrate.upgrade(empty_url)
    assert migrate.check(empty_url) == []


def test_every_view_has_the_documented_columns(database_url: str) -> None:
    engine = open_engine(database_url)
    with engine.connect() as connection:
        for view in VIEWS:
            columns = connection.execute(text(f"SELECT * FROM {view.name}")).keys()
            assert list(columns) == list(view.columns), view.name
    engine.dispose()


def test_require_current_names_the_command_for_an_older_database(sqlite_url: str) -> None:
    migrate.downgrade(sqlite_url, "base", backup=False)
    with pytest.raises(UsageError, match=rf"run `difflens db upgrade {sqlite_url}`"):
        migrate.require_current(sqlite_url)


def test_a_database_of_a_newer_version_is_refused_and_left_alone(database_url: str) -> None:
    execute(database_url, "UPDATE alembic_version SET version_num = '9999'")
    for action in (migrate.require_current, migrate.upgrade):
        with pytest.raises(UsageError, match=r"revision 9999.*does not know.*upgrade difflens"):
            action(database_url)
    assert migrate.current(database_url) == "9999"


@pytest.mark.parametrize("revision", ["0001", "0005", "0009"])
def test_a_database_made_before_the_first_release_is_refused_and_left_alone(
    database_url: str, revision: str
) -> None:
    execute(database_url, f"UPDATE alembic_version SET version_num = '{revision}'")
    for action in (migrate.require_current, migrate.upgrade, migrate.check):
        with pytest.raises(UsageError, match=rf"before difflens 0\.1\.0 \(revision {revision}\)"):
            action(database_url)
    with pytest.raises(UsageError, match=r"before difflens 0\.1\.0"):
        migrate.downgrade(database_url, "base")
    assert migrate.current(database_url) == revision


def test_no_revision_is_named_like_one_from_before_the_first_release() -> None:
    names = [script.revision for script in scripts().walk_revisions()]
    assert [name for name in names if name.startswith(tuple(migrate.UNRELEASED))] == []


def test_a_database_of_something_else_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'other.db'}"
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE invoice (id INTEGER)")
    with pytest.raises(UsageError, match="tables of something else"):
        migrate.upgrade(url)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_text("these are my notes, and no database at all" * 100)
    with pytest.raises(UsageError, match="cannot be read as a database"):
        migrate.upgrade(f"sqlite:///{path}")
    assert path.read_text().startswith("these are my notes")


def test_current_of_a_missing_file_creates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "missing.db"
    with pytest.raises(UsageError, match="no database at"):
        migrate.current(f"sqlite:///{path}")
    assert not path.exists()


def test_downgrade_to_an_unknown_revision_is_a_usage_error(sqlite_url: str) -> None:
    with pytest.raises(UsageError, match="db downgrade"):
        migrate.downgrade(sqlite_url, "7777")


def test_upgrade_of_a_current_database_writes_nothing(sqlite_url: str, tmp_path: Path) -> None:
    before = (tmp_path / "study.db").read_bytes()
    assert migrate.upgrade(sqlite_url) is None
    assert (tmp_path / "study.db").read_bytes() == before


def test_upgrade_restores_views_of_another_version(database_url: str) -> None:
    execute(
        database_url,
        "DROP VIEW v_coverage",
        "DROP VIEW v_definitions",
        "CREATE VIEW v_definitions AS SELECT 'older' AS sha256",
    )
    with pytest.raises(UsageError, match="views of another version"):
        migrate.require_current(database_url)
    migrate.upgrade(database_url)
    assert migrate.check(database_url) == []


def test_a_password_is_never_shown() -> None:
    from labeler.store.database_url import shown_url

    assert shown_url("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"


@pytest.mark.postgres
def test_one_study_lives_in_one_schema(postgres_server: URL) -> None:
    with fresh_database(postgres_server, f"t_{uuid.uuid4().hex}") as url:
        server = url.render_as_string(hide_password=False)
        execute(server, "CREATE SCHEMA first", "CREATE SCHEMA second")
        first = f"{server}?options=-csearch_path%3Dfirst"
        second = f"{server}?options=-csearch_path%3Dsecond"
        migrate.upgrade(first)
        migrate.upgrade(second)
        assert migrate.check(first) == migrate.check(second) == []
        migrate.downgrade(first, "base")
        assert (migrate.current(first), migrate.current(second)) == (None, head_revision())


def test_a_server_that_does_not_answer_is_one_clear_line() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(UsageError, match="cannot be reached") as caught:
        migrate.current("postgresql://me:secret@127.0.0.1:1/study")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
