"""The views as other people's clients see them."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from requirements import missing
from seeding import label, seed
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from labeler.store.engine import sqlite_file, write_session

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
