"""Earlier versions of a taxonomy: shown, gone back to, and told apart from today's."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml
from sqlalchemy import text
from taxonomy_studies import (
    decide_by_sheet,
    labels,
)

from labeler.api import Study
from labeler.cli.main import run
from labeler.store.engine import read_session
from labeler.store.taxonomies import renames_since


@pytest.mark.slow
def test_restore_brings_an_earlier_versions_labels_and_decisions_back(
    categorised: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, sheet = str(categorised), tmp_path / "sheet.csv"
    decide_by_sheet(categorised, sheet, {0: "cooking", 1: "weather"})
    before = labels(categorised)
    assert run(["taxonomy", "rename", study, "weather", "climate"]) == 0
    assert run(["taxonomy", "merge", study, "music", "cooking", "--into", "fun"]) == 0
    assert run(["taxonomy", "split", study, "climate", "--into", "rain", "--into", "snow"]) == 0
    decide_by_sheet(categorised, sheet, {2: "fun", 3: "none"})
    events = "select count(*), sum(carried_from_id is null) from review_event"
    n_events, n_own = Study.open(categorised).sql(events).rows[0]
    capsys.readouterr()
    assert run(["taxonomy", "restore", study, "1"]) == 0
    assert "is active" in capsys.readouterr().err
    now = labels(categorised)
    assert {index for index in now if now[index] != before[index]} <= {2, 3}
    assert [row[0] for row in Study.open(categorised).sql(
        "select distinct latent_index from v_effective_label where source = 'human' order by 1"
    ).rows] == [0, 1]  # fmt: skip
    assert Study.open(categorised).sql(events).rows[0] == (n_events + 2, n_own)
    assert {row[0] for row in Study.open(categorised).taxonomy_diff("1").rows} == set()
    assert run(["taxonomy", "restore", study, "1"]) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert run(["taxonomy", "restore", study, "9"]) == 2
    assert "taxonomy restore: no version '9'; there are mine 1" in capsys.readouterr().err


def test_a_decision_made_since_is_kept_where_its_category_comes_back(
    categorised: Path, tmp_path: Path
) -> None:
    study = str(categorised)
    assert run(["taxonomy", "rename", study, "weather", "climate"]) == 0
    decide_by_sheet(categorised, tmp_path / "sheet.csv", {1: "climate", 2: "music"})
    assert run(["taxonomy", "restore", study, "1"]) == 0
    rows = (
        Study.open(categorised)
        .sql(
            "select latent_index, category from v_effective_label where source = 'human' order by 1"
        )
        .rows
    )
    assert [tuple(row) for row in rows] == [(1, "weather"), (2, "music")]


def test_a_decision_that_does_not_come_back_is_told(
    categorised: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = str(categorised)
    assert run(["taxonomy", "merge", study, "weather", "cooking", "--into", "daily"]) == 0
    decide_by_sheet(categorised, tmp_path / "sheet.csv", {1: "daily", 2: "music"})
    capsys.readouterr()
    assert run(["taxonomy", "restore", study, "1"]) == 0
    said = capsys.readouterr().err
    assert "1 decision of people for categories that are gone: decide there again" in said
    decided = "select latent_index, category from v_effective_label where source = 'human'"
    assert [tuple(row) for row in Study.open(categorised).sql(decided).rows] == [(2, "music")]


def test_history_tells_what_was_carried_over_from_what_was_said(
    categorised: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decide_by_sheet(categorised, tmp_path / "sheet.csv", {0: "music"})
    assert run(["taxonomy", "rename", str(categorised), "music", "songs"]) == 0
    capsys.readouterr()
    (crosscoder,) = Study.open(categorised).sql("select name from crosscoder").rows[0]
    assert run(["history", str(categorised), f"{crosscoder}:0"]) == 0
    decisions = [line for line in capsys.readouterr().out.splitlines() if "decision by" in line]
    assert [line.endswith("(carried over from an earlier version)") for line in decisions] == [
        False,
        True,
    ]


def test_an_earlier_version_is_shown(categorised: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = str(categorised)
    assert run(["taxonomy", "merge", study, "music", "cooking", "--into", "fun"]) == 0
    capsys.readouterr()
    assert run(["taxonomy", "show", study, "--version", "1"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("mine version 1\n")
    assert "cooking:" in shown
    assert run(["taxonomy", "show", study, "--version", "1", "--format", "yaml"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["version"] == "1"
    assert run(["taxonomy", "show", study, "--version", "1", "--format", "csv"]) == 0
    counts = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert sum(int(row["latents"]) for row in counts) == 24
    assert run(["taxonomy", "show", study, "--version", "7"]) == 2
    assert "taxonomy show: no version '7'" in capsys.readouterr().err


def test_what_became_of_a_category_that_keeps_its_slug_is_said_in_words(
    categorised: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = str(categorised)
    capsys.readouterr()
    assert run(["taxonomy", "rename", study, "music", "music", "--name", "Tunes"]) == 0
    assert "music has another title" in capsys.readouterr().err
    assert run(["taxonomy", "merge", study, "music", "cooking", "--into", "music"]) == 0
    assert "music holds them all; cooking is in music" in capsys.readouterr().err


@pytest.mark.slow
def test_a_slug_of_an_earlier_version_is_told_where_it_went(
    categorised: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = str(categorised)
    assert run(["taxonomy", "rename", study, "weather", "climate"]) == 0
    assert run(["taxonomy", "rename", study, "climate", "sky"]) == 0
    assert run(["taxonomy", "merge", study, "music", "cooking", "--into", "fun"]) == 0
    study_database = Study.open(categorised)
    with study_database.engine() as engine, read_session(engine) as session:
        versions = session.execute(text("SELECT id, sha256 FROM taxonomy_version ORDER BY id"))
        hashes = {row.id: row.sha256 for row in versions}
        renames = renames_since(session, max(hashes))
    assert [renames[hashes[key]] for key in sorted(hashes)[-4:-1]] == [
        {"weather": "sky", "climate": "sky"},
        {"climate": "sky"},
        {},
    ]
    gone = "'weather' was renamed to 'climate' in version 2, 'climate' was renamed to 'sky' in"
    capsys.readouterr()
    assert run(["taxonomy", "rename", study, "weather", "rain"]) == 2
    assert gone in capsys.readouterr().err
    assert run(["labels", "export", study, str(tmp_path / "labels.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "labels.csv").open()))
    for row in rows:
        row["category"] = "cooking"
    rows[0]["category"] = "weather"
    rows[1]["category"] = "skyy"
    with (tmp_path / "labels.csv").open("w", newline="") as sink:
        writer = csv.DictWriter(sink, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    capsys.readouterr()
    assert run(["labels", "import", study, str(tmp_path / "labels.csv")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert f"nothing imported, {len(rows)} mistakes" in lines[0]
    assert lines[1].startswith("row 2: category 'weather' is not in")
    assert gone in lines[1]
    assert "the nearest is 'sky'" in lines[2]
    assert "'cooking' was merged into 'fun' in version 4" in lines[3]
    assert lines[21:] == [f"and {len(rows) - 20} more"]


def test_a_planted_category_that_was_merged_is_told_where_it_went(
    categorised: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with categorised.open("a") as config:
        config.write('\n[report.planted]\ncooking = "up"\n')
    merge = ["taxonomy", "merge", str(categorised), "music", "cooking", "--into", "music"]
    assert run(merge) == 0
    capsys.readouterr()
    assert run(["report", str(categorised)]) == 2
    words = "report.planted.cooking: no such category in the taxonomy; 'cooking' was merged into"
    assert f"{words} 'music' in version 2" in capsys.readouterr().err
