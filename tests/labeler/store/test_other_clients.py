"""The views as other people's clients see them."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path
from typing import Any

import duckdb
import duckdb_extension_sqlite_scanner
import pytest
from datasette.app import Datasette
from requirements import missing
from seeding import label, seed
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from labeler.store.database_url import sqlite_file
from labeler.store.engine import write_session
from labeler.store.views import VIEWS

QUESTION = "select side, labelled from v_coverage order by side"


@pytest.fixture
def url(engine: Engine, database_url: str) -> str:
    """A database with one label."""
    with write_session(engine) as session:
        data = seed(session)
        label(session, data, data.target[0], "safety")
    return database_url


@pytest.mark.parametrize("backend", ["sqlite"])
def test_a_sqlite_study_opens_read_only_in_the_shell(url: str) -> None:
    shell = shutil.which("sqlite3")
    if shell is None:
        pytest.skip("no sqlite3 shell")
    done = subprocess.run(
        [shell, "-readonly", str(sqlite_file(url)), QUESTION],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == ["reference|0", "target|1"]


@pytest.mark.parametrize("backend", ["sqlite"])
def test_a_sqlite_study_opens_in_datasette(url: str) -> None:
    opened = Datasette([str(sqlite_file(url))])

    async def ask(path: str) -> dict[str, Any]:
        answer = await opened.client.get(path)
        assert answer.status_code == 200, path
        found: dict[str, Any] = answer.json()
        return found

    async def ask_all() -> None:
        coverage = await ask("/difflens/v_coverage.json?_shape=objects&_sort=side&_col=labelled")
        assert [row["labelled"] for row in coverage["rows"]] == [0, 1]
        for view in VIEWS:
            found = await ask(f"/difflens/{view.name}.json")
            assert found["columns"] == list(view.columns)

    asyncio.run(ask_all())


@pytest.mark.parametrize("backend", ["sqlite"])
def test_a_sqlite_study_opens_in_duckdb(url: str) -> None:
    folder = Path(duckdb_extension_sqlite_scanner.__path__[0])
    (extension,) = folder.glob("extensions/*/sqlite_scanner.duckdb_extension")
    with duckdb.connect() as connection:
        connection.load_extension(str(extension))
        connection.execute(f"attach '{sqlite_file(url)}' as study (type sqlite, read_only)")
        connection.execute("use study")
        assert connection.execute(QUESTION).fetchall() == [("reference", 0), ("target", 1)]
        for view in VIEWS:
            found = connection.execute(f"select * from {view.name}")
            assert [column[0] for column in found.description] == list(view.columns)
            found.fetchall()
        with pytest.raises(duckdb.Error):
            connection.execute("delete from run")


@pytest.mark.postgres
@pytest.mark.parametrize("backend", ["postgres"])
def test_a_postgresql_study_opens_in_psql(url: str) -> None:
    shell = shutil.which("psql")
    if shell is None:
        missing("postgres", "there is no psql; apt install postgresql-client")
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    done = subprocess.run(
        [shell, plain, "--csv", "--command", QUESTION],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["side,labelled", "reference,0", "target,1"]
