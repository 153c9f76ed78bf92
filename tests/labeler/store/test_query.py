from __future__ import annotations

import csv
import io
import json
import time
import uuid
from decimal import Decimal
from pathlib import Path

import hostile_sql
import pytest
from seeding import label, seed
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url

from labeler.cli.main import run
from labeler.errors import UsageError, WorkError
from labeler.store import migrate
from labeler.store.copy import digest_table
from labeler.store.engine import make_reader, open_engine, write_session
from labeler.store.query.query import format_result, run_limited, run_query
from labeler.store.query.result import Limits, QueryResult
from labeler.store.schema import metadata

FOREVER = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t"


@pytest.fixture
def url(engine: Engine, database_url: str) -> str:
    """A database with one label."""
    with write_session(engine) as session:
        data = seed(session)
        label(session, data, data.target[0], "safety", confidence=1 / 3)
    return database_url


def test_a_select_gives_columns_and_rows(url: str) -> None:
    result = run_query(url, "SELECT category, confidence FROM v_effective_label WHERE rank = 1;")
    assert result.columns == ("category", "confidence")
    assert ("safety", 1 / 3) in result.rows
    assert not result.truncated


def test_recursive_and_window_queries_are_allowed(url: str) -> None:
    query = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 3) "
    result = run_query(url, query + "SELECT n, row_number() OVER (ORDER BY n) FROM t ORDER BY n")
    assert result.rows == ((1, 1), (2, 2), (3, 3))


def test_more_rows_than_asked_for_are_cut_and_said(url: str) -> None:
    result = run_query(url, "SELECT id FROM latent ORDER BY id", max_rows=2)
    assert (len(result.rows), result.truncated) == (2, True)
    assert not run_query(url, "SELECT id FROM latent ORDER BY id", max_rows=4).truncated


def state(engine: Engine) -> list[tuple[str, int, str]]:
    """The contents of every table, and what the schema holds."""
    catalog = {
        "sqlite": "SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2",
        "postgresql": "SELECT relkind::text, relname, reltuples::text FROM pg_class"
        " WHERE relnamespace = current_schema()::regnamespace ORDER BY 1, 2",
    }[engine.dialect.name]
    with engine.connect() as connection:
        tables = [digest_table(connection, table) for table in metadata.sorted_tables]
        schema = connection.execute(text(catalog)).all()
    rows = [(table.table, table.rows, table.sha256) for table in tables]
    return [*rows, *((f"{kind} {name}", 0, str(sql)) for kind, name, sql in schema)]


def refused(url: str, statement: str) -> bool:
    with pytest.raises(UsageError, match="sql: ") as error:
        run_query(url, statement, timeout=5)
    return "\n" not in str(error.value)


@pytest.mark.slow
def test_anything_but_one_select_is_refused_and_changes_nothing(url: str, engine: Engine) -> None:
    before = state(engine)
    assert [statement for statement in hostile_sql.BOTH if not refused(url, statement)] == []
    assert state(engine) == before


def test_a_question_on_nothing_or_nonsense_is_refused(url: str) -> None:
    for statement in ("", "  ;  ", "SELECT * FROM no_such_table", "SELEC 1"):
        assert refused(url, statement)


@pytest.mark.slow
def test_hostile_statements_on_sqlite_are_refused(
    sqlite_url: str, sqlite_engine: Engine, tmp_path: Path
) -> None:
    folder = tmp_path / "untouched"
    folder.mkdir()
    before = state(sqlite_engine)
    for statement in hostile_sql.SQLITE:
        assert refused(sqlite_url, statement.replace("{folder}", str(folder)))
    assert state(sqlite_engine) == before
    assert list(folder.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("statement", hostile_sql.SQLITE_BOMBS)
def test_bombs_on_sqlite_are_stopped(sqlite_url: str, statement: str) -> None:
    engine = open_engine(sqlite_url)
    with write_session(engine) as session:
        seed(session, 20, 20)
    engine.dispose()
    started = time.monotonic()
    with pytest.raises((UsageError, WorkError), match="sql: "):
        run_query(sqlite_url, statement, timeout=0.3)
    assert time.monotonic() - started < 1.3


def test_a_question_that_takes_too_much_memory_is_stopped(sqlite_url: str) -> None:
    statement = (
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 1000000)"
        " SELECT hex(n) || hex(n) FROM t ORDER BY 1"
    )
    with pytest.raises(WorkError, match="sql: the question needs more memory than it may"):
        run_limited(sqlite_url, statement, Limits(max_heap_bytes=1 << 24))


def test_an_answer_too_large_to_hold_is_refused(url: str) -> None:
    statement = (
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 5000)"
        " SELECT replace('aaaaaaaaaa', 'a', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa') FROM t"
    )
    with pytest.raises(WorkError, match="the answer exceeds 1 MB"):
        run_limited(url, statement, Limits(max_bytes=1_000_000))
    shown = run_limited(url, statement, Limits(max_bytes=1_000_000, is_shown=True))
    assert shown.truncated
    assert 2_000 < len(shown.rows) < 3_000


@pytest.mark.postgres
@pytest.mark.parametrize("backend", ["postgres"])
def test_hostile_statements_on_postgresql_are_refused(
    url: str, engine: Engine, tmp_path: Path
) -> None:
    folder = tmp_path / "untouched"
    folder.mkdir()
    folder.chmod(0o777)
    before = state(engine)
    for statement in hostile_sql.POSTGRESQL:
        assert refused(url, statement.replace("{folder}", str(folder)))
    assert state(engine) == before
    assert list(folder.iterdir()) == []


@pytest.mark.postgres
@pytest.mark.parametrize("backend", ["postgres"])
def test_bombs_on_postgresql_are_stopped(url: str) -> None:
    for statement in hostile_sql.POSTGRESQL_BOMBS:
        started = time.monotonic()
        with pytest.raises(WorkError, match="stopped after"):
            run_query(url, statement, timeout=0.3)
        assert time.monotonic() - started < 1.3


@pytest.mark.postgres
@pytest.mark.parametrize("backend", ["postgres"])
def test_questions_are_asked_under_the_readers_role(url: str, engine: Engine) -> None:
    role = make_reader(url)
    try:
        result = run_query(url, "SELECT current_user, count(*) FROM v_effective_label")
        assert result.rows[0][0] == role
        migrate.downgrade(url, "base", backup=False)
        migrate.upgrade(url)
        assert run_query(url, "SELECT count(*) FROM v_coverage").rows == ((0,),)
        with pytest.raises(UsageError, match="permission denied"):
            run_query(url, "SELECT rolpassword FROM pg_authid")
        assert make_reader(url) == role
    finally:
        with engine.begin() as connection:
            connection.execute(text(f'DROP OWNED BY "{role}"'))
            connection.execute(text(f'DROP ROLE "{role}"'))


@pytest.mark.postgres
@pytest.mark.parametrize("backend", ["postgres"])
def test_an_administrator_gives_the_readers_role_to_a_user(url: str, engine: Engine) -> None:
    user = f"u_{uuid.uuid4().hex}"
    role = f"{engine.url.database}_reader"
    with engine.begin() as connection:
        connection.execute(text(f"CREATE ROLE {user} LOGIN"))
    own = make_url(url).set(username=user).render_as_string(hide_password=False)
    try:
        with pytest.raises(UsageError, match=f"as an administrator: .* --to {user}"):
            make_reader(own)
        assert run(["db", "reader", url, "--to", user]) == 0
        assert run_query(own, "SELECT current_user").rows == ((role,),)
        assert len(run_query(own, "SELECT * FROM v_coverage").rows) == 2
        with pytest.raises(UsageError, match='role "nobody_of_that_name" does not exist'):
            make_reader(url, ["nobody_of_that_name"])
    finally:
        with engine.begin() as connection:
            connection.execute(text(f'DROP OWNED BY "{role}"'))
            connection.execute(text(f'DROP ROLE "{role}"'))
            connection.execute(text(f"DROP ROLE {user}"))


def test_a_question_without_end_is_stopped(url: str) -> None:
    with pytest.raises(WorkError, match=r"stopped after 0\.2 s"):
        run_query(url, FOREVER, timeout=0.2)


def test_a_missing_database_is_named_and_not_created(tmp_path: Path) -> None:
    path = tmp_path / "missing.db"
    with pytest.raises(UsageError, match=r"no database at .*missing.db"):
        run_query(f"sqlite:///{path}", "SELECT 1")
    assert not path.exists()


def test_csv_has_a_header_and_unrounded_numbers(url: str) -> None:
    result = run_query(
        url, "SELECT 'a, \"b\"' AS word, 0.1 + 0.2e0 AS number, NULL AS empty FROM run"
    )
    rows = list(csv.reader(io.StringIO(format_result(result, "csv"))))
    assert rows[0] == ["word", "number", "empty"]
    assert rows[1][0] == 'a, "b"'
    assert float(rows[1][1]) == pytest.approx(0.3, abs=1e-16)
    assert rows[1][2] == ""


def test_json_is_an_array_of_objects() -> None:
    result = QueryResult(("n", "x", "n"), ((1, 1 / 3, None), (2, "é", True)), truncated=False)
    assert json.loads(format_result(result, "json")) == [
        {"n": 1, "x": 1 / 3, "n_2": None},
        {"n": 2, "x": "é", "n_2": True},
    ]
    empty = QueryResult(("n",), (), truncated=False)
    assert json.loads(format_result(empty, "json")) == []


def test_the_work_of_printing_grows_with_the_answer_and_no_faster() -> None:
    begin = time.perf_counter()
    wide = QueryResult(("1",) * 2_000, (tuple(range(2_000)),) * 3, truncated=False)
    assert list(json.loads(format_result(wide, "json"))[0])[:3] == ["1", "1_2", "1_3"]
    high = QueryResult(("w",), (("a" * 1_000_000,), *((("b"),) for _ in range(2_000))), False)
    assert len(format_result(high)) < 3_000_000
    assert time.perf_counter() - begin < 2


def test_json_is_taken_apart_by_tables_of_its_own(sqlite_url: str) -> None:
    statement = (
        "SELECT value FROM json_each('[1,2]') UNION ALL SELECT max(id) FROM json_tree('[3]')"
    )
    assert len(run_query(sqlite_url, statement).rows) == 3


def test_a_table_aligns_its_columns() -> None:
    result = QueryResult(("name", "n"), (("a", 1), ("long name", 200)), truncated=False)
    assert format_result(result) == (
        "name         n\n---------  ---\na            1\nlong name  200\n"
    )


def test_an_unknown_format_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="'xml' is not known; choose table, csv or json"):
        format_result(QueryResult(("n",), (), truncated=False), "xml")


@pytest.mark.parametrize(
    "statement", ["drop table latent", "-- a word\n/* or two */ (explain select 1", "selec 1"]
)
def test_what_is_no_question_is_told_so_on_both_databases(url: str, statement: str) -> None:
    with pytest.raises(UsageError) as error:
        run_query(url, statement)
    word = next(word for word in ("drop", "explain", "selec") if word in statement)
    told = f'sql: one SELECT statement only, and this begins with "{word}": '
    assert str(error.value).startswith(told)


@pytest.mark.parametrize(
    "statement", ["select * from nowhere", "with a as (select 1) select b from a", "values (1"]
)
def test_a_mistyped_question_is_not_called_another_statement(url: str, statement: str) -> None:
    with pytest.raises(UsageError) as error:
        run_query(url, statement)
    assert "one SELECT" not in str(error.value)


def test_a_table_rounds_what_csv_and_json_keep_exact() -> None:
    values = (499.9999999999999, 1 / 3, 1.23456789e-7, 1234567.891, Decimal("2.50"), 12345678)
    result = QueryResult(tuple("abcdef"), (values,), truncated=False)
    shown = ["500", "0.333333", "1.23457e-07", "1234568", "2.5", "12345678"]
    assert format_result(result).splitlines()[2].split() == shown
    assert "499.9999999999999,0.3333333333333333," in format_result(result, "csv")
    assert json.loads(format_result(result, "json"))[0]["a"] == 499.9999999999999
