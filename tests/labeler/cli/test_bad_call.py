"""A wrong call or table gets one clear line and exit status 2, and changes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from complaints import Capture, assert_names, complaint, sides

from labeler.cli.main import run

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "{study}", "--from", "harvets"), ("--from", "'harvets'", "harvest, train")),
        (("run", "{study}", "--until", "end"), ("--until", "'end'", "report")),
        (
            ("run", "{study}", "--from", "label", "--until", "train"),
            ("--from label", "--until train"),
        ),
        (("inspect", "{study}", "nobody"), ("latent", "'nobody'", "latent_index")),
        (("inspect", "{study}", "tiny:99999"), ("latent", "'tiny:99999'")),
        (("history", "{study}", "99999999"), ("latent", "'99999999'")),
        (("inspect", "{study}", "9" * 40), ("latent", "9" * 40)),
        (("sql", "{study}", ""), ("sql", "empty")),
        (("sql", "{study}", "selec 1"), ("sql", "syntax error")),
        (("sql", "{study}", "select * from nowhere"), ("sql", "nowhere")),
        (("sql", "{study}", "delete from run"), ("sql", "only reading")),
        (("sql", "{study}", "-- why\nselect 1"), ("-- why", "write -- alone before it")),
        (("report", "{study}", "--compare", "{study}"), ("--compare", "this study itself")),
        (("sql", "{study}", "select 1", "--format", "xml"), ("--format", "xml", "csv")),
        (("import", "{study}", "no-such.csv"), ("no-such.csv",)),
        (("import", "{study}", "{folder}"), ("{folder}",)),
        (("labels", "import", "{study}", "no-such.csv"), ("no-such.csv",)),
        (("labels", "import", "{study}", "{folder}"), ("{folder}",)),
        (("labels", "export", "{study}", "{folder}"), ("{folder}",)),
        (("labels", "export", "{study}", "{folder}/no/where.csv"), ("no/where.csv",)),
        (("init", "{study}"), ("{study}", "is there already")),
        (("init", "{folder}/no/where.toml"), ("no", "no such folder")),
        (("nonsense",), ("nonsense",)),
        (("run",), ("study.toml",)),
        (("run", "{study}", "--nonsense"), ("--nonsense",)),
        (("db", "upgrade", "nonsense"), ("database.url",)),
        (("db", "downgrade", "sqlite:///{folder}/difflens.db", "7777"), ("7777",)),
    ],
)
def test_a_wrong_call(
    imported: Path, arguments: tuple[str, ...], words: tuple[str, ...], capsys: Capture
) -> None:
    def fill(word: str) -> str:
        return word.replace("{study}", str(imported)).replace("{folder}", str(imported.parent))

    before = sides(imported.parent / "difflens.db")
    line = complaint(capsys, *map(fill, arguments))
    assert_names(line, *map(fill, words))
    assert sides(imported.parent / "difflens.db") == before


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("c,left,1,x,safety", ("row 2", "side", "'left'")),
        ("c,target,one,x,safety", ("row 2", "latent_index", "'one'")),
        ("c,target,1,x,saftey", ("row 2", "saftey", "safety")),
        ("c,target,1,x", ("row 2",)),
        ("c,target,1,x,safety\nc,target,1,y,none", ("row", "2", "3")),
        ("c,target,1,x,safety\nc,reference,1,y,none,", ("row 3",)),
    ],
)
def test_a_wrong_row_is_named(
    tmp_path: Path, row: str, words: tuple[str, ...], capsys: Capture
) -> None:
    study = tmp_path / "study.toml"
    assert run(["init", str(study)]) == 0
    table = tmp_path / "latents.csv"
    table.write_text(f"comparison,side,latent_index,explanation,category\n{row}\n", "utf-8")
    assert_names(complaint(capsys, "import", study, table), table, *words)


@pytest.mark.slow
def test_the_console_script_ends_in_one_line(tmp_path: Path) -> None:
    for arguments in (["run", "nowhere.toml"], ["run"], ["sql", "nowhere.toml", "select 1"]):
        ended = subprocess.run(
            [sys.executable, "-c", "from labeler.cli.main import main; main()", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ended.returncode, ended.stdout) == (2, "")
        assert len(ended.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
