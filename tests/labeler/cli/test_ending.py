"""What ends a call is one line whatever was raised, and what is printed arrives or is escaped."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from complaints import Capture, complaint, run_states
from tiny_study import TinyStudy

from labeler.cli.main import run
from labeler.errors import doing

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache")]
ROOT = Path(__file__).parents[3]
HOSTILE = "caf\u00e9 \u4e2d\u6587 \U0001f600 \x1b[31m\u2013 =1+1"

UNFORESEEN = (
    KeyError("x"),
    AttributeError("'NoneType' object has no attribute 'y'"),
    RecursionError("maximum recursion depth exceeded"),
    MemoryError(),
    UnicodeEncodeError("latin-1", "\u2013", 0, 1, "ordinal not in range(256)"),
    OverflowError("int too large to convert to float"),
    OSError("words of a library\nin two lines"),
    ExceptionGroup("several", [KeyError("x")]),
    ValueError("a \x1b[31mred\x07 word"),
    RuntimeError("password=hunter22"),
)


def log_of(line: str) -> Path:
    return Path(line.rpartition("; the traceback is in ")[2])


@pytest.mark.parametrize("error", UNFORESEEN, ids=lambda error: type(error).__name__)
def test_an_error_that_nobody_foresaw_is_told_by_its_place(
    finished_study: TinyStudy,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def fail(*_: object, **__: object) -> None:
        with doing("report.html"):
            raise error

    study = finished_study.copied_to(tmp_path / "study")
    monkeypatch.setattr("labeler.stages.report.build_report", fail)
    assert run(["run", str(study.path), "--from", "report"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    leaf = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
    assert line.startswith(f"difflens: stage report: report.html: {type(leaf).__name__}")
    assert not any(character in line for character in "\x1b\x07")
    assert "hunter22" not in line
    log = log_of(line)
    assert log.parent == study.folder
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    text = log.read_text(encoding="utf-8")
    assert "Traceback (most recent call last)" in text
    assert "build_report" in text
    assert "hunter22" not in text
    assert run_states(study, "report")[-1] == "failed"


def test_a_folder_that_cannot_be_written_leaves_the_traceback_elsewhere(
    imported: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from labeler.cli import ending

    def fail(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr("labeler.stages.status.study_status", fail)
    monkeypatch.setattr(ending, "_study_folders", lambda _: [Path("/proc/nowhere")])
    line = complaint(capsys, "status", imported, status=1)
    assert line.startswith("difflens: status: KeyError: 'x'; the traceback is in ")
    log_of(line).unlink()


def test_a_developer_sees_the_traceback(
    imported: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFLENS_TRACEBACK", "1")
    assert run(["import", str(imported), "no-such.csv"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "Traceback (most recent call last):" in lines
    assert lines[-1] == "difflens: no-such.csv: no such file"


def difflens(
    *arguments: str | Path | bytes, encoding: str = "utf-8", shell: str = ""
) -> subprocess.CompletedProcess[bytes]:
    """A command in a process of its own; `shell` redirects its streams."""
    names = ("LC_ALL", "LANG", "LC_CTYPE", "PYTHONUTF8", "PYTHONIOENCODING")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"PYTHONPATH": str(ROOT)}
    if encoding == "C":
        environment |= {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    else:
        environment |= {"PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "labeler.cli", *arguments]
    if shell:
        command = ["/bin/sh", "-c", f'exec "$@" {shell}', "sh", *command]
    return subprocess.run(command, env=environment, capture_output=True, check=False, timeout=120)


@pytest.fixture
def speaking(tmp_path: Path) -> Path:
    """A study whose texts few encodings can show."""
    path = tmp_path / "study.toml"
    assert run(["init", str(path)]) == 0
    table = tmp_path / "latents.csv"
    header = "comparison,side,latent_index,explanation,category\n"
    table.write_text(f'{header}c,target,1,"{HOSTILE}",safety\n', encoding="utf-8")
    assert run(["import", str(path), str(table)]) == 0
    return path


QUESTION = "SELECT explanation FROM v_effective_label"
ENCODINGS = ("latin-1", "ascii", "cp1252", "C")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("sql", QUESTION),
        ("inspect", "imported:c:target:1"),
        ("history", "imported:c:target:1"),
        ("taxonomy", "show"),
        ("report",),
    ],
    ids=lambda arguments: arguments[0],
)
def test_commands_print_in_any_encoding(
    speaking: Path, arguments: tuple[str, ...], encoding: str
) -> None:
    command, *rest = arguments
    first = [command, rest.pop(0)] if command == "taxonomy" else [command]
    ended = difflens(*first, speaking, *rest, encoding=encoding)
    assert ended.returncode == 0, ended.stderr
    assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_data_for_programs_is_utf_8_whatever_the_locale(speaking: Path, encoding: str) -> None:
    as_csv = difflens("sql", speaking, QUESTION, "--format", "csv", encoding=encoding)
    rows = list(csv.reader(io.StringIO(as_csv.stdout.decode("utf-8"), newline="")))
    assert rows == [["explanation"], [HOSTILE]]
    as_json = difflens("sql", speaking, QUESTION, "--format", "json", encoding=encoding)
    assert json.loads(as_json.stdout.decode("utf-8")) == [{"explanation": HOSTILE}]
    tree = difflens("taxonomy", "show", speaking, "--format", "yaml", encoding=encoding)
    assert "\nname: " in tree.stdout.decode("utf-8")


@pytest.mark.parametrize(
    ("shell", "status"),
    [
        (">&-", 0),
        ("2>&-", 0),
        (">&- 2>&- <&-", 0),
        (">/dev/full", 1),
        ("2>/dev/full", 0),
        (">/dev/full 2>/dev/full", 1),
    ],
)
def test_streams_that_are_closed_or_full(speaking: Path, shell: str, status: int) -> None:
    before = (speaking.parent / "difflens.db").read_bytes()
    ended = difflens("sql", speaking, QUESTION, shell=shell)
    assert ended.returncode == status
    assert b"Traceback" not in ended.stderr
    assert b"Exception ignored" not in ended.stderr
    said = [b"difflens: No space left on device"] if shell == ">/dev/full" else []
    assert ended.stderr.splitlines() == said
    assert (speaking.parent / "difflens.db").read_bytes() == before


def test_work_goes_on_where_nobody_hears_of_it(untouched: TinyStudy) -> None:
    ended = difflens("run", untouched.path, "--until", "harvest", shell=">/dev/null 2>/dev/full")
    assert ended.returncode == 0
    assert run_states(untouched, "harvest") == ["done"]


def test_names_that_are_not_utf_8(speaking: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(speaking.parent) + b"/caf\xe9"))
    folder.mkdir()
    missing = difflens("status", folder / "no.toml")
    assert missing.returncode == 2
    assert len(missing.stderr.splitlines()) == 1
    asked = difflens("sql", speaking, b"SELECT 'caf\xe9'")
    assert asked.returncode == 2
    assert len(asked.stderr.splitlines()) == 1
    assert b"half of a character" in asked.stderr
    for name in ("study.toml", "latents.csv"):
        shutil.copy(speaking.parent / name, folder / name)
    for arguments in (("import", folder / "latents.csv"), ("status",)):
        ended = difflens(arguments[0], folder / "study.toml", *arguments[1:])
        assert ended.returncode in (0, 2), ended.stderr
        assert b"Traceback" not in ended.stderr
        assert b"the traceback is in" not in ended.stderr, ended.stderr
