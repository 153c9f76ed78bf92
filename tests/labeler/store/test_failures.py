"""Disks, shares and servers that fail: one clear line, and all of a change or nothing of it."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL

from labeler.cli.main import run
from labeler.errors import WorkError
from labeler.stages.pipeline import opened
from labeler.store import engine, migrate
from labeler.store.engine import open_engine
from labeler.study.study_file import StudyFile

ROOT = Path(__file__).parents[3]
Capture = pytest.CaptureFixture[str]
N_LATENTS = 300
# With a cache of few pages, SQLite writes to its log all through the change.
SPILLING = """
import sys
from sqlalchemy import Engine, event
from labeler.cli.main import run
event.listen(Engine, "connect", lambda connection, _: connection.execute("PRAGMA cache_size = 10"))
sys.exit(run(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def labelled_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of imported labels and a file that corrects all of them; to be copied."""
    folder = tmp_path_factory.mktemp("labelled")
    path = folder / "study.toml"
    path.write_text("[study]\n", encoding="utf-8")
    latents = folder / "latents.csv"
    with latents.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["comparison", "side", "latent_index", "explanation", "category"])
        table.writerows(["c", "target", n, "fires on refusals", "safety"] for n in range(N_LATENTS))
    assert run(["import", str(path), str(latents)]) == 0
    assert run(["labels", "export", str(path), str(folder / "labels.csv")]) == 0
    corrected = (folder / "labels.csv").read_text().replace(",safety,", ",multilingual,")
    (folder / "labels.csv").write_text(corrected, encoding="utf-8")
    return folder


@pytest.fixture
def study(labelled_folder: Path, tmp_path: Path, capsys: Capture) -> Path:
    """A study of imported labels and a file that corrects all of them."""
    shutil.copytree(labelled_folder, tmp_path, dirs_exist_ok=True)
    capsys.readouterr()
    return tmp_path / "study.toml"


def decisions(study: Path) -> int:
    with closing(sqlite3.connect(study.parent / "difflens.db")) as connection:
        return int(connection.execute("SELECT count(*) FROM review_event").fetchone()[0])


def correction(study: Path) -> list[str]:
    return ["labels", "import", str(study), str(study.parent / "labels.csv"), "--reviewer", "ann"]


@pytest.mark.slow
def test_a_bulk_edit_that_is_killed_is_whole_or_absent(study: Path) -> None:
    log = study.parent / "difflens.db-wal"
    for limit in (0, 80_000, 120_000):
        before, started = decisions(study), log.stat().st_size if log.exists() else 0
        if before:
            break
        process = subprocess.Popen(
            [sys.executable, "-c", SPILLING, *correction(study)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None:
            if log.exists() and log.stat().st_size > started + limit:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        process.wait()
        assert decisions(study) in (0, N_LATENTS)
    assert run(correction(study)) == 0
    assert decisions(study) == N_LATENTS
    assert migrate.check(StudyFile.read(study).database_url) == []


@pytest.mark.slow
def test_a_file_that_may_not_be_written_is_one_line(
    study: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = engine._file_url
    monkeypatch.setattr(engine, "_file_url", lambda path, _: original(path, {"mode": "ro"}))
    assert run(correction(study)) == 1
    line = capsys.readouterr().err
    assert "attempt to write a readonly database; the file or its folder may not be" in line
    assert line.count("\n") == 1
    monkeypatch.undo()
    assert decisions(study) == 0


def test_a_file_system_without_a_write_ahead_log_is_refused(
    study: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(study.parent / "difflens.db")) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    original = engine._file_url
    monkeypatch.setattr(
        engine, "_file_url", lambda *given: original(*given).update_query_dict({"vfs": "unix-none"})
    )
    assert run(correction(study)) == 1
    line = capsys.readouterr().err
    assert "cannot hold SQLite's write-ahead log" in line
    assert line.count("\n") == 1
    assert decisions(study) == 0


def test_a_locked_database_is_waited_for_and_then_one_line(
    study: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_MS", 50)
    with closing(sqlite3.connect(study.parent / "difflens.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert run(correction(study)) == 1
    line = capsys.readouterr().err
    assert "database is locked; another process has kept it locked" in line
    assert line.count("\n") == 1
    assert decisions(study) == 0


def lose_the_connection_within_a_change(study: StudyFile, server: URL) -> None:
    insert = text(
        "INSERT INTO corpus (name, sha256, n_documents, created_at) VALUES (:n, :n, 1, now())"
    )
    kill = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
    with opened(study.database_url) as database, database.begin() as connection:
        connection.execute(insert, {"n": "first"})
        other = open_engine(server)
        with other.connect() as killer:
            killer.execute(kill, {"name": database.url.database})
        other.dispose()
        connection.execute(insert, {"n": "second"})


@pytest.mark.postgres
@pytest.mark.parametrize("backend", ["postgres"])
def test_a_lost_connection_is_one_line_and_nothing_is_half_done(
    database_url: str, postgres_server: URL, tmp_path: Path
) -> None:
    (tmp_path / "study.toml").write_text(f'[database]\nurl = "{database_url}"\n', encoding="utf-8")
    study = StudyFile.read(tmp_path / "study.toml")
    with pytest.raises(WorkError, match=r"connection is lost.*what was committed is kept"):
        lose_the_connection_within_a_change(study, postgres_server)
    with opened(study.database_url) as database, database.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM corpus")).scalar_one() == 0
