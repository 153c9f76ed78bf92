"""What a user's mistake must look like: one clear line, and a study as it was."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tiny_study import TinyStudy

from labeler.cli.main import run

Capture = pytest.CaptureFixture[str]


def complaint(capsys: Capture, *arguments: str | Path, status: int = 2) -> str:
    """The one line in which a call ends; nothing else may be printed."""
    capsys.readouterr()
    assert run([str(argument) for argument in arguments]) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("difflens: ")
    return line


def assert_names(line: str, *words: str | Path) -> None:
    """All of these stand in the line."""
    for word in words:
        assert str(word) in line, line


def sides(database: Path) -> list[tuple[Any, ...]]:
    """Every active label."""
    with closing(sqlite3.connect(database)) as connection:
        query = "SELECT side, latent_id, category FROM v_effective_label ORDER BY 1, 2, 3"
        return connection.execute(query).fetchall()


def run_states(study: TinyStudy, stage: str) -> list[str]:
    """How the runs of a stage ended, oldest first."""
    with closing(sqlite3.connect(study.database)) as connection:
        query = "SELECT status FROM run WHERE kind = ? ORDER BY id"
        return [status for (status,) in connection.execute(query, (stage,))]
