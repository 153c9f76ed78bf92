from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import JSON, literal, select, text
from sqlalchemy.exc import OperationalError

from labeler.errors import UsageError
from labeler.store.database_url import parse_url, sqlite_file
from labeler.store.engine import open_engine, read_session, write_session


def test_a_missing_file_is_created_only_when_asked(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new' / 'a b#%.db'}"
    with pytest.raises(UsageError, match="no database at"):
        open_engine(url)
    assert not (tmp_path / "new").exists()
    engine = open_engine(url, create=True)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (id INTEGER)"))
    engine.dispose()
    assert (tmp_path / "new" / "a b#%.db").is_file()
    assert sqlite_file(engine.url) == tmp_path / "new" / "a b#%.db"


def test_pragmas_are_set(sqlite_url: str) -> None:
    engine = open_engine(sqlite_url)
    with engine.connect() as connection:
        values = [
            connection.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("foreign_keys", "journal_mode", "synchronous")
        ]
    engine.dispose()
    assert values == [1, "wal", 1]


def test_a_writer_does_not_keep_readers_waiting(sqlite_url: str) -> None:
    engine = open_engine(sqlite_url)
    with write_session(engine) as writer:
        writer.execute(text("DELETE FROM work_item"))
        with read_session(engine) as reader:
            assert reader.execute(text("SELECT count(*) FROM work_item")).scalar_one() == 0
    engine.dispose()


def test_an_exception_rolls_everything_back_even_a_table(sqlite_url: str) -> None:
    engine = open_engine(sqlite_url)
    statements = ("CREATE TABLE half_made (id INTEGER)", "INSERT INTO no_such_table VALUES (1)")

    def write() -> None:
        with write_session(engine) as session:
            for statement in statements:
                session.execute(text(statement))

    with pytest.raises(OperationalError, match="no_such_table"):
        write()
    with read_session(engine) as session:
        names = session.execute(text("SELECT name FROM sqlite_master WHERE name = 'half_made'"))
        assert names.all() == []
    engine.dispose()


def test_the_environment_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFLENS_TEST_SECRET", "s3cret")
    url = parse_url("postgresql://me:${DIFFLENS_TEST_SECRET}@host/db")
    assert (url.password, url.drivername) == ("s3cret", "postgresql+psycopg")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://host/db", "'mysql' is not supported; use sqlite or postgresql"),
        ("not a url", "not a database URL"),
        ("postgresql://${DIFFLENS_NO_SUCH_VARIABLE}@host/db", "DIFFLENS_NO_SUCH_VARIABLE"),
    ],
)
def test_a_url_that_cannot_work_is_a_usage_error(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_url(url)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec=None, exclude_categories=())),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.slow
@given(JSON_VALUES)
@example("half of a pair: \ud83d")
@example(10**40)
@example(float("inf"))
@example([2**63, "half of a pair: \ud83d"])
def test_json_is_read_as_it_was_written(value: object) -> None:
    engine = open_engine("sqlite://")
    with engine.connect() as connection:
        query = select(literal(value, JSON(none_as_null=False)))
        assert connection.execute(query).scalar_one() == value
    engine.dispose()
