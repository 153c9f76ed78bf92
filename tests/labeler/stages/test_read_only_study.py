"""A study in a folder that may not be written can be read, whole; writers are told in one line."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from complaints import assert_names
from published_table import write_table
from requirements import missing

from labeler.cli.main import run

pytestmark = pytest.mark.slow

AS_ANYBODY = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
"""Root without the right to pass over the modes of files."""
_CALLS = """
import contextlib, io, json, sys
from labeler.cli.main import run
found = []
for words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run(words)
    found.append([status, out.getvalue(), err.getvalue()])
json.dump(found, sys.stdout)
"""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nothing in the folder may be changed, and nothing made in it."""
    inside = [path for path in folder.rglob("*") if not path.is_symlink()]
    for path in (*inside, folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        yield
    finally:
        for path in (folder, *inside):
            path.chmod(0o755 if path.is_dir() else 0o644)


def calls(*commands: Sequence[str | Path]) -> list[tuple[int, str, str]]:
    """Status, stdout and stderr of each command of somebody whom the modes of files bind."""
    prefix: list[str] = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            missing("setpriv", "setpriv is not installed, and root may write everywhere")
        prefix = AS_ANYBODY
    done = subprocess.run(
        [*prefix, sys.executable, "-c", _CALLS],
        input=json.dumps([[str(word) for word in words] for words in commands]),
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[Any] = json.loads(done.stdout)
    return [(status, out, err) for status, out, err in found]


@pytest.fixture
def folder(imported_folder: Path, tmp_path: Path) -> Path:
    """A study of the published table as its last program left it: without a log."""
    folder = shutil.copytree(imported_folder, tmp_path / "study")
    without_log(folder)
    return folder


def without_log(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "difflens.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for name in ("difflens.db-wal", "difflens.db-shm"):
        (folder / name).unlink(missing_ok=True)


COUNT = "select count(*) from run"


def test_everything_that_reads_does(folder: Path, tmp_path: Path) -> None:
    study, database = folder / "study.toml", folder / "difflens.db"
    url = f"sqlite:///{database}"
    before = sorted(path.name for path in folder.iterdir())
    content = database.read_bytes()
    readers = [
        ("status", study),
        ("sql", study, COUNT),
        ("inspect", study, "id:1"),
        ("history", study, "id:1"),
        ("labels", "export", study, tmp_path / "labels.csv"),
        ("taxonomy", "show", study),
        ("db", "check", url),
        ("db", "current", url),
    ]
    with locked(folder):
        for words, (status, out, err) in zip(readers, calls(*readers), strict=True):
            assert status == 0, (words, out, err)
            assert "Traceback" not in err
    assert sorted(path.name for path in folder.iterdir()) == before
    assert database.read_bytes() == content


def test_everything_that_writes_says_so_in_a_line_and_changes_nothing(
    folder: Path, tmp_path: Path
) -> None:
    study, database = folder / "study.toml", folder / "difflens.db"
    changed = write_table(tmp_path / "changed.csv", "instruction-following")
    edited = tmp_path / "edited.csv"
    assert run(["labels", "export", str(study), str(edited)]) == 0
    text = edited.read_text("utf-8-sig").replace(",safety,", ",none,", 1)
    edited.write_text(text, "utf-8")
    without_log(folder)
    content = database.read_bytes()
    writers = [
        ("import", study, changed),
        ("labels", "import", study, edited),
        ("report", study),
        ("db", "downgrade", f"sqlite:///{database}", "base"),
    ]
    with locked(folder):
        for words, (status, _, err) in zip(writers, calls(*writers), strict=True):
            assert status in (1, 2), words
            (line,) = err.splitlines()
            assert_names(line, folder)
    assert database.read_bytes() == content


def test_rows_in_the_log_are_read_or_named_never_left_out(folder: Path, tmp_path: Path) -> None:
    study = folder / "study.toml"
    writer = sqlite3.connect(folder / "difflens.db", isolation_level=None)
    writer.execute("PRAGMA wal_autocheckpoint = 0")
    (before,) = writer.execute(COUNT).fetchone()
    columns = "kind, status, config, config_sha256, code_version, started_at"
    writer.execute(f"INSERT INTO run ({columns}) SELECT {columns} FROM run LIMIT 1")
    assert (folder / "difflens.db-wal").stat().st_size > 0
    copied = tmp_path / "copied"
    copied.mkdir()
    for name in ("difflens.db", "difflens.db-wal", "study.toml"):
        shutil.copy(folder / name, copied / name)
    with locked(folder):
        ((status, out, _),) = calls(("sql", study, COUNT, "--format", "csv"))
    assert (status, out.split()[1]) == (0, str(before + 1))
    commands = [
        ("status", copied / "study.toml"),
        ("sql", copied / "study.toml", COUNT),
        ("db", "check", f"sqlite:///{copied / 'difflens.db'}"),
    ]
    with locked(copied):
        for status, _, err in calls(*commands):
            assert status == 1
            (line,) = err.splitlines()
            assert_names(line, "difflens.db-wal", "newest rows")
    ((status, out, _),) = calls(("sql", copied / "study.toml", COUNT, "--format", "csv"))
    assert (status, out.split()[1]) == (0, str(before + 1))
    writer.close()
