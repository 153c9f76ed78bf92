from __future__ import annotations

from pathlib import Path

import pytest
from seeding import decide, label, rows, seed
from sqlalchemy import Engine, text
from test_triggers import populate

from labeler.errors import UsageError, WorkError
from labeler.store import copy as copying
from labeler.store import migrate
from labeler.store.copy import TableDigest, copy_database
from labeler.store.engine import open_engine, write_session
from labeler.store.schema import metadata


@pytest.mark.slow
def test_a_copy_on_another_database_has_equal_checksums_and_goes_on(
    engine: Engine, database_url: str, tmp_path: Path
) -> None:
    with write_session(engine) as session:
        data = populate(session)
        decide(session, data, data.target[1], "lists", note="naïve \x00 \ud800")
    middle, last = f"sqlite:///{tmp_path / 'middle.db'}", f"sqlite:///{tmp_path / 'last.db'}"
    first = copy_database(database_url, middle)
    assert {table.table for table in first.tables} == set(metadata.tables)
    assert first.rows > 20
    assert copy_database(middle, last) == first
    copy = open_engine(last)
    with write_session(copy) as session:
        decide(session, data, data.target[1], "humour")
        query = "SELECT category FROM v_effective_label WHERE latent_id = :id"
        shown = session.execute(text(query), {"id": data.target[1]}).scalar_one()
        assert shown == "humour"
    copy.dispose()
    assert migrate.check(last) == []


def test_a_copy_into_this_database_takes_new_rows(
    database_url: str, tmp_path: Path, migrated_file: Path
) -> None:
    source = tmp_path / "source.db"
    source.write_bytes(migrated_file.read_bytes())
    first = open_engine(f"sqlite:///{source}")
    with write_session(first) as session:
        data = seed(session)
        label(session, data, data.target[0], "safety")
    first.dispose()
    copied = copy_database(f"sqlite:///{source}", database_url)
    engine = open_engine(database_url)
    with write_session(engine) as session:
        label(session, data, data.target[1], "humour")
        found = rows(session, "SELECT latent_id, category FROM v_effective_label ORDER BY 1")
        assert found[:2] == [(data.target[0], "safety"), (data.target[1], "humour")]
    engine.dispose()
    assert copied.rows > 20


@pytest.mark.postgres
@pytest.mark.parametrize("backend", ["postgres"])
def test_a_copy_in_postgresql_is_known_to_its_planner(
    database_url: str, tmp_path: Path, migrated_file: Path
) -> None:
    source = tmp_path / "source.db"
    source.write_bytes(migrated_file.read_bytes())
    first = open_engine(f"sqlite:///{source}")
    with write_session(first) as session:
        seed(session)
    first.dispose()
    copy_database(f"sqlite:///{source}", database_url)
    engine = open_engine(database_url)
    with engine.connect() as connection:
        query = "SELECT reltuples FROM pg_class WHERE oid = 'latent'::regclass"
        assert connection.execute(text(query)).scalar_one() == 4
    engine.dispose()


def test_a_target_with_rows_is_refused_and_left_alone(
    engine: Engine, database_url: str, sqlite_url: str
) -> None:
    with write_session(engine) as session:
        seed(session)
    with pytest.raises(UsageError, match="holds a study already"):
        copy_database(sqlite_url, database_url)
    with pytest.raises(UsageError, match="same database"):
        copy_database(database_url, database_url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM latent")).scalar_one() == 4


def test_a_missing_source_makes_no_target(tmp_path: Path) -> None:
    target = tmp_path / "new.db"
    with pytest.raises(UsageError, match="no database at"):
        copy_database(f"sqlite:///{tmp_path / 'missing.db'}", f"sqlite:///{target}")
    assert not target.exists()


@pytest.mark.slow
def test_a_copy_that_differs_is_rolled_back(
    engine: Engine, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with write_session(engine) as session:
        seed(session)
    digests = iter(range(1000))
    monkeypatch.setattr(
        copying, "digest_table", lambda *_: TableDigest("latent", next(digests), "")
    )
    target = f"sqlite:///{tmp_path / 'copy.db'}"
    with pytest.raises(WorkError, match="differs after copying"):
        copy_database(database_url, target)
    copy = open_engine(target)
    with copy.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM latent")).scalar_one() == 0
    copy.dispose()
    assert migrate.check(target) == []
