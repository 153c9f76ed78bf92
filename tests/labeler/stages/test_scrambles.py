"""Scrambled fine-tunes in a study: made once, kept, and beside every category's shift."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tiny_study import TinyStudy

from labeler.cli.main import run

pytestmark = pytest.mark.usefixtures("own_cache")
SCRAMBLES = {"scrambles": 4, "scramble_documents": 12, "rule": "shifted"}


@pytest.fixture
def study(finished_study: TinyStudy, tmp_path: Path) -> TinyStudy:
    return finished_study.copied_to(tmp_path / "study")


def rows(study: TinyStudy, statement: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{study.database}?mode=ro", uri=True)) as connection:
        return connection.execute(statement).fetchall()


@pytest.mark.slow
def test_shifts_are_compared_with_scrambled_fine_tunes_that_another_rule_does_not_make_again(
    study: TinyStudy,
) -> None:
    asked = study.with_tables(isolate=SCRAMBLES, collect={"latents": "all"})
    assert run(["run", str(asked.path)]) == 0
    compared = rows(
        asked,
        "SELECT weighted_shift, scrambled_low, scrambled_high, weighted_shift_q, n_scrambled"
        " FROM v_category_change_statistic WHERE weighted_shift IS NOT NULL",
    )
    assert compared
    for shift, low, high, q_value, n_scrambled in compared:
        assert low < high
        assert n_scrambled == 4
        assert q_value >= 0.05 or not low <= shift <= high, "what is called lies outside"
    files = list((asked.folder / "artifacts" / "scrambles").iterdir())
    assert len(files) == 1
    written = files[0].stat().st_mtime_ns
    other = asked.with_tables(isolate={"top": 12})
    assert run(["run", str(other.path), "--until", "isolate"]) == 0
    assert [each.stat().st_mtime_ns for each in files[0].parent.iterdir()] == [written]


@pytest.mark.slow
def test_models_that_cannot_be_scrambled_are_said_and_nothing_else_changes(
    study: TinyStudy, capfd: pytest.CaptureFixture[str]
) -> None:
    base = study.tables["models"][0]
    same = study.with_tables(
        models=[base, {**study.tables["models"][1], "path": base["path"]}], isolate=SCRAMBLES
    )
    assert run(["run", str(same.path), "--until", "isolate"]) == 0
    assert "no scrambled fine-tunes: model 'tuned': equals 'base'" in capfd.readouterr().err
    assert rows(same, "SELECT count(*) FROM side_draw WHERE scrambled IS NOT NULL") == [(0,)]
