from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from seeding import label, seed
from sqlalchemy import Engine, text

from labeler.errors import UsageError, WorkError
from labeler.sql import QueryResult, format_result, run_query
from labeler.store.engine import write_session

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


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM latent",
        "UPDATE run SET status = 'done'",
        "INSERT INTO prompt (sha256, name, text) VALUES ('a', 'b', 'c')",
        "DROP VIEW v_coverage",
        "CREATE TABLE mine (id INTEGER)",
        "CREATE TEMP TABLE mine (id INTEGER)",
        "SELECT 1; DELETE FROM latent",
        "SELECT 1; SELECT 2",
        "BEGIN",
        "COMMIT",
        "ROLLBACK; DELETE FROM latent",
        "COMMIT; DELETE FROM latent",
        "VACUUM",
        "WITH gone AS (DELETE FROM latent RETURNING id) SELECT * FROM gone",
        "SET default_transaction_read_only = off",
        "SELECT * FROM no_such_table",
        "SELEC 1",
        "  ;  ",
    ],
)
def test_anything_but_one_select_is_refused_and_changes_nothing(
    url: str, engine: Engine, statement: str
) -> None:
    with pytest.raises(UsageError, match="sql: "):
        run_query(url, statement)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM latent")).scalar_one() == 4
        assert connection.execute(text("SELECT count(*) FROM v_coverage")).scalar_one() == 2


def test_hostile_statements_on_sqlite_are_refused(sqlite_url: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    for statement in (
        f"ATTACH 'file:{tmp_path}/made.db?mode=rwc' AS other",
        "PRAGMA query_only = 0",
        "PRAGMA writable_schema = 1",
        f"VACUUM INTO '{tmp_path}/copy.db'",
        "SELECT load_extension('evil')",
        "SELECT * FROM pragma_table_info('latent')",
        "SELECT zeroblob(1000000000)",
        "SELECT randomblob(1000000000)",
    ):
        with pytest.raises(UsageError, match="sql: "):
            run_query(sqlite_url, statement)
    names = [
        path for path in sorted(tmp_path.iterdir()) if path.suffix not in (".db-shm", ".db-wal")
    ]
    assert names == before


@pytest.mark.postgres
@pytest.mark.parametrize("backend", ["postgres"])
def test_hostile_statements_on_postgresql_are_refused(url: str) -> None:
    statements = (
        "SELECT set_config('transaction_read_only', 'off', false), nextval('latent_id_seq')",
        "SELECT nextval('latent_id_seq')",
        "COPY latent TO '/tmp/latents.txt'",
        "SELECT 1 INTO mine",
        "SELECT setval('latent_id_seq', 900)",
    )
    for statement in statements:
        with pytest.raises(UsageError, match="sql: "):
            run_query(url, statement)


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


def test_a_table_aligns_its_columns() -> None:
    result = QueryResult(("name", "n"), (("a", 1), ("long name", 200)), truncated=False)
    assert format_result(result) == (
        "name         n\n---------  ---\na            1\nlong name  200\n"
    )


def test_an_unknown_format_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="'xml' is not known; choose table, csv or json"):
        format_result(QueryResult(("n",), (), truncated=False), "xml")
