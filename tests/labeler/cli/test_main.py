"""The command line: what it says of itself, and its commands on finished and imported studies."""

from __future__ import annotations

import csv
import json
import os
import re
import sqlite3
import subprocess
import sys
import tomllib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from published_table import COMPARISON, PUBLISHED, TOTALS
from tiny_study import TinyStudy

from labeler import __version__
from labeler.cli.main import run
from labeler.stages.base import STAGE_NAMES
from labeler.store.migrate import head_revision
from labeler.study.config import Section, inner_section, own_fields
from labeler.study.study_file import StudyConfig, StudyFile, study_template

Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).parents[3]
HEAVY = ("torch", "transformers", "sqlalchemy", "sklearn", "scipy", "pandas", "matplotlib", "peft")
COMMANDS = (
    "demo", "init", "run", "harvest", "train", "isolate", "collect", "label", "categorize",
    "report", "status", "inspect", "history", "import", "labels", "taxonomy", "sql", "db",
    "doctor",
)  # fmt: skip
ASK_FOR_HELP = f"""
import sys
from labeler.cli.main import run
status = run(sys.argv[1:])
loaded = [name for name in {HEAVY!r} if name in sys.modules]
sys.stderr.write(",".join(loaded))
sys.exit(status)
"""


def in_process_of_its_own(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )


def output(capsys: Capture, *arguments: str | Path) -> str:
    """Standard output of a call that succeeds."""
    capsys.readouterr()
    assert run([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], [], ["run", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    ended = in_process_of_its_own(ASK_FOR_HELP, *arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout


def test_help_comes_soon() -> None:
    """The bound is loose, as this machine may be busy: the time counted is the process's own."""
    script = ASK_FOR_HELP.replace(
        'sys.stderr.write(",".join(loaded))',
        "import time; sys.stderr.write(str(time.process_time()))",
    )
    assert float(in_process_of_its_own(script, "--help").stderr) < 1.5


def test_help_names_every_command(capsys: Capture) -> None:
    shown = output(capsys, "--help")
    for command in COMMANDS:
        assert re.search(rf"^\s+{command}\b", shown, re.MULTILINE), command
    assert output(capsys) == shown


def test_the_version(capsys: Capture) -> None:
    assert output(capsys, "--version") == f"difflens {__version__}\n"


def sections() -> dict[str, type[Section]]:
    """Sections of the config by the name of their table."""
    found: dict[str, type[Section]] = {}
    for name, field in StudyConfig.model_fields.items():
        kind = inner_section(field.annotation)
        assert kind is not None, name
        found[name] = kind
    return found


def test_init_writes_a_valid_study_with_every_key(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    assert run(["init", str(path)]) == 0
    text = path.read_text(encoding="utf-8")
    assert StudyFile.read(path).config == StudyConfig()
    for table, section in sections().items():
        title = rf"^(?:# )?\[\[?{table}\]\]?$"
        (start,) = re.finditer(title, text, re.MULTILINE)
        end = re.search(r"^(?:# )?\[", text[start.end() :], re.MULTILINE)
        body = text[start.end() : start.end() + end.start()] if end else text[start.end() :]
        for key, field in own_fields(section).items():
            if inner_section(field.annotation) is not None:
                continue
            assert f"# {key} = " in body, f"{table}.{key}"
            first_words = " ".join(str(field.description).split()[:3])
            assert first_words in " ".join(body.replace("#", " ").split()), f"{table}.{key}"


def test_what_init_shows_is_valid_when_the_marks_are_taken_away() -> None:
    lines = []
    for line in study_template().splitlines():
        key = re.match(r"# (\w+) = (.*)$", line)
        table = re.match(r"# (\[.*\])$", line)
        if key and key.group(2) != '""':
            lines.append(f"{key.group(1)} = {key.group(2)}")
        elif table or line.startswith("["):
            lines.append(table.group(1) if table else line)
    shown = tomllib.loads("\n".join(lines))
    shown["models"].append({"name": "tuned", "path": "models/tuned"})
    assert shown["crosscoder"].pop("path")  # instead of [[crosscoders]]: the file shows either
    assert shown["corpus"].pop("path")  # instead of [[corpus.sources]]
    config = StudyConfig.model_validate(shown)
    assert config.train == StudyConfig().train
    assert config.comparison[0].target == "tuned"


def test_init_leaves_a_file_that_is_there(imported: Path) -> None:
    before = imported.read_bytes()
    assert run(["init", str(imported)]) == 2
    assert imported.read_bytes() == before


def test_doctor_names_what_is_there(capsys: Capture) -> None:
    lines = output(capsys, "doctor").splitlines()
    found = {line[:22].strip(): line[22:].strip() for line in lines}
    assert found["difflens"] == __version__
    assert found["sqlite"] == sqlite3.sqlite_version
    assert "threads" in found["torch"]
    assert all(found.values())


def stage_states(lines: list[str]) -> list[str]:
    """The state of every stage, in order; what became of the text stands indented below one."""
    return [line.split()[1] for line in lines if line.split()[0] in STAGE_NAMES]


@pytest.mark.slow
def test_status_of_a_finished_study(
    finished_study: TinyStudy, own_cache: Path, capsys: Capture
) -> None:
    lines = output(capsys, "status", finished_study.path).splitlines()
    assert lines[0] == f"database  sqlite:///{finished_study.database}"
    assert stage_states(lines) == ["done"] * 7
    (target,) = [line for line in lines if line.startswith("tuned-vs-base/target: ")]
    assert "0 reviewed" in target


@pytest.mark.slow
def test_status_tells_stale_from_open(
    finished_study: TinyStudy, own_cache: Path, tmp_path: Path, capsys: Capture
) -> None:
    study = finished_study.copied_to(tmp_path / "study").with_tables(isolate={"top": 9})
    states = stage_states(output(capsys, "status", study.path).splitlines())
    assert states == ["done", "done", *["stale"] * 5]
    before = study.database.read_bytes()
    output(capsys, "status", study.path)
    assert study.database.read_bytes() == before


@pytest.mark.slow
def test_a_report_on_stale_stages_says_so(
    finished_study: TinyStudy, own_cache: Path, tmp_path: Path, capsys: Capture
) -> None:
    study = finished_study.copied_to(tmp_path / "study").with_tables(isolate={"top": 9})
    page = study.path.parent / "report" / "index.html"
    for _ in range(2):
        assert run(["report", str(study.path)]) == 0
        (line,) = [x for x in capsys.readouterr().err.splitlines() if "warning" in x]
        assert "isolate, collect, label, categorize are stale" in line
        assert "difflens run study.toml" in line
        assert "data-stale" in page.read_text("utf-8")
    again = finished_study.copied_to(tmp_path / "again")
    assert run(["report", str(again.path)]) == 0
    assert "warning" not in capsys.readouterr().err


@pytest.mark.slow
def test_status_and_report_of_imported_labels(
    imported: Path, own_cache: Path, capsys: Capture
) -> None:
    shown = output(capsys, "report", imported)
    assert COMPARISON in shown
    assert "None of the" in shown
    lines = output(capsys, "status", imported).splitlines()
    states = {line.split()[0]: line.split()[1] for line in lines[1:8]}
    assert states["harvest"] == "open"
    assert states["report"] == "done"
    assert any(f"{TOTALS['target']} labelled" in line for line in lines)


def test_the_published_table_through_sql(imported: Path, capsys: Capture) -> None:
    query = "select category, percent_change, target_total, reference_total from v_category_change"
    records: list[dict[str, Any]] = json.loads(
        output(capsys, "sql", imported, query, "--format", "json")
    )
    changes = {record["category"]: record["percent_change"] for record in records}
    assert {slug: round(changes[slug], 1) for slug in PUBLISHED} == PUBLISHED
    assert {(r["target_total"], r["reference_total"]) for r in records} == {(89, 112)}
    as_csv = list(csv.DictReader(output(capsys, "sql", imported, query, "--format", "csv").split()))
    assert [line["category"] for line in as_csv] == [record["category"] for record in records]
    assert "safety" in output(capsys, "sql", imported, query)


def test_sql_prints_no_more_than_asked(imported: Path, capsys: Capture) -> None:
    query = "select latent_id from v_effective_label"
    arguments = ["sql", str(imported), query, "--format", "csv", "--max-rows", "3"]
    capsys.readouterr()
    assert run(arguments) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 4
    assert "only the first 3 rows" in printed.err


@pytest.mark.slow
def test_inspect_shows_scaling_and_evidence(finished_study: TinyStudy, capsys: Capture) -> None:
    with closing(sqlite3.connect(finished_study.database)) as connection:
        query = "SELECT latent_index, latent_id FROM v_effective_label LIMIT 1"
        ((index, latent_id),) = connection.execute(query).fetchall()
    shown = output(capsys, "inspect", finished_study.path, f"tiny:{index}")
    assert shown.startswith(f"tiny:{index} (latent_id {latent_id})\n")
    assert "tuned against base: delta_norm 0." in shown
    assert re.search(r"^  top \d", shown, re.MULTILINE)
    assert "[[" in shown
    assert output(capsys, "inspect", finished_study.path, f"id:{latent_id}") == shown


def test_history_tells_who_said_what(imported: Path, tmp_path: Path, capsys: Capture) -> None:
    name = f"imported:{COMPARISON}:target:0"
    title, line = output(capsys, "history", imported, name).splitlines()
    assert re.fullmatch(rf"{name} \(latent_id \d+\)", title)
    for word in ("imported", "assigned", "safety", "fires on safety"):
        assert word in line
    assert "HistoryEntry" not in line
    correct_first(imported, tmp_path / "sheet.csv", "ann")
    _, first, second = output(capsys, "history", imported, name).splitlines()
    assert first == line
    for word in ("ann", "multilingual", "revision 1"):
        assert word in second


def correct_first(study: Path, sheet: Path, reviewer: str) -> None:
    """Change the category of the target's latent 0 in a spreadsheet."""
    assert run(["labels", "export", str(study), str(sheet), "--force"]) == 0
    with sheet.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    for line in lines:
        if (line["side"], line["latent_index"]) == ("target", "0"):
            line["category"] = "multilingual"
    with sheet.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    assert run(["labels", "import", str(study), str(sheet), "--reviewer", reviewer]) == 0


def test_labels_go_through_a_spreadsheet(imported: Path, tmp_path: Path, capsys: Capture) -> None:
    sheet = tmp_path / "sheet.csv"
    assert run(["labels", "export", str(imported), str(sheet)]) == 0
    assert f"{sum(TOTALS.values())} labels" in capsys.readouterr().err
    assert run(["labels", "import", str(imported), str(sheet), "--reviewer", "ann"]) == 0
    assert "wrote 0 decisions" in capsys.readouterr().err
    correct_first(imported, sheet, "ann")
    assert "wrote 1 decision;" in capsys.readouterr().err
    query = "select target_count from v_category_change where category = 'multilingual'"
    assert output(capsys, "sql", imported, query, "--format", "csv").split() == [
        "target_count",
        "9",
    ]


def test_a_dry_run_changes_nothing(imported: Path, tmp_path: Path, capsys: Capture) -> None:
    table = tmp_path / "more.csv"
    table.write_text(
        "comparison,side,latent_index,explanation,category\nother,target,1,x,safety\n", "utf-8"
    )
    assert run(["import", str(imported), str(table), "--dry-run"]) == 0
    assert "would add 1 latents" in capsys.readouterr().err
    query = "select count(*) from v_effective_label"
    (_, count) = output(capsys, "sql", imported, query, "--format", "csv").split()
    assert int(count) == sum(TOTALS.values())


def test_taxonomy_show(imported: Path, capsys: Capture) -> None:
    shown = output(capsys, "taxonomy", "show", imported)
    for slug in PUBLISHED:
        assert re.search(rf"^ *{slug}: \w", shown, re.MULTILINE), slug


def test_databases_are_upgraded_and_checked(tmp_path: Path, capsys: Capture) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    assert run(["db", "upgrade", url]) == 0
    assert output(capsys, "db", "current", url).strip() == head_revision()
    assert output(capsys, "db", "check", url) == ""
    assert run(["db", "downgrade", url, "base"]) == 0
    assert output(capsys, "db", "current", url).strip() == "base"
    assert run(["db", "upgrade", url]) == 0
    assert run(["db", "check", url]) == 0


def test_a_schema_that_differs_is_told(tmp_path: Path, capsys: Capture) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    assert run(["db", "upgrade", url]) == 0
    with closing(sqlite3.connect(tmp_path / "new.db")) as connection:
        connection.execute("DROP VIEW v_run")
        connection.commit()
    capsys.readouterr()
    assert run(["db", "check", url]) == 1
    printed = capsys.readouterr()
    assert "v_run" in printed.out
    (line,) = printed.err.splitlines()
    assert "difflens db upgrade" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    "query",
    ["select * from v_effective_label a, v_effective_label b", "select 1"],
    ids=["long", "short"],
)
def test_a_reader_that_leaves_early_is_no_failure_to_speak_of(imported: Path, query: str) -> None:
    script = "from labeler.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, "sql", str(imported), query, "--format", "csv"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    words = process.stderr.read().decode()
    # As a shell tells of `yes | head -1`: ended by SIGPIPE.
    assert process.wait(timeout=120) == 141
    assert words == ""
