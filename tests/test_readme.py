"""What the README tells people to type is typed here, or shown to exist where it needs more."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from markdown import ROOT, Block, blocks, relative_links, table_rows

from labeler.cli.main import run
from labeler.study.study_file import StudyConfig

README = ROOT / "README.md"
PAPER = ROOT / "examples" / "paper"
PAPER_README = PAPER / "README.md"
NEEDS = {"network", "vllm", "models", "postgres"}
SHELL = [(page, block) for page in (README, PAPER_README) for block in blocks(page, "sh")]
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("examples/*/README.md"),
]


pytestmark = pytest.mark.timeout(900)


def run_blocks(page: Path, place: str | None, folder: Path) -> str:
    """Run a page's blocks of one place, in order; returns what they printed on stdout."""
    programs = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "DIFFLENS_CACHE": str(folder / "cache"),
    }
    printed = ""
    here = [block for block in blocks(page, "sh") if place_of(block) == place]
    assert here
    for block in here:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block.text}{done.stdout}{done.stderr}"
        printed += done.stdout
    return printed


def place_of(block: Block) -> str | None:
    """The folder whose copy a block runs in, `.` for an empty one; None where it is not run."""
    if block.key is None:
        return "."
    return block.value if block.key == "in" else None


def paper_copy(tmp_path: Path) -> Path:
    folder = tmp_path / "paper"
    shutil.copytree(PAPER, folder)
    return folder


def marked(*needs: str) -> list[Block]:
    return [block for _, block in SHELL if block.key == "needs" and block.value in needs]


def test_every_block_is_run_or_says_why_not() -> None:
    for page, block in SHELL:
        runs_here = place_of(block) in {".", "examples/paper"}
        assert runs_here or block.key == "elsewhere" or block.value in NEEDS, (page, block.text)


@pytest.mark.slow
def test_commands_run_in_an_empty_folder(tmp_path: Path) -> None:
    printed = run_blocks(README, ".", tmp_path)
    assert (tmp_path / "study.toml").is_file()
    assert "torch" in printed


@pytest.mark.slow
def test_commands_on_the_paper_example_run(tmp_path: Path) -> None:
    folder = paper_copy(tmp_path)
    printed = " ".join(run_blocks(README, "examples/paper", folder).split())
    assert "None of the 14 changes is distinguishable from zero: the strongest, " in printed
    for line in re.findall(r"^    (\S+ .*%)  \S.*$", README.read_text("utf-8"), re.MULTILINE):
        assert " ".join(line.split()) in printed


@pytest.mark.slow
def test_the_paper_example_says_what_its_report_says(tmp_path: Path) -> None:
    folder = paper_copy(tmp_path)
    run_blocks(PAPER_README, "examples/paper", folder)
    written = {row[0]: row for row in table_rows(folder / "report" / "category_change.md")}
    claimed = [row for row in table_rows(PAPER_README) if row[1].isdigit()]
    assert len(claimed) == 10
    for row in claimed:
        found = written[row[0].removesuffix(" (a parent)")]
        assert [found[1].split("/")[0], found[3].split("/")[0]] == row[1:3]
        assert [cell.replace("\\", "") for cell in found[5:10]] == row[3:8]


@pytest.mark.parametrize("need", ["models", "postgres"])
def test_commands_that_need_more_exist(need: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for block in marked(need) for line in block.commands if "difflens " in line]
    assert lines
    for words in map(shlex.split, (line for line in lines if line.startswith("difflens "))):
        names = [word for word in words[1:] if re.fullmatch(r"[a-z]+", word)]
        assert run([*names, "--help"]) == 0, words
        shown = capsys.readouterr().out
        for option in (word for word in words if word.startswith("--")):
            assert option in shown, words


def test_extras_and_versions_that_are_named_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = [line for block in marked("vllm", "postgres", "network") for line in block.commands]
    extras = re.findall(r"'\.\[(\w+)\]'", "\n".join(lines))
    assert extras
    assert set(extras) <= set(project["optional-dependencies"])
    pinned = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    assert set(re.findall(r"\w+==[\w.]+", "\n".join(lines))) <= set(pinned)


@pytest.mark.parametrize(("target", "command"), [("demo", "difflens demo"), ("test", "pytest")])
def test_the_two_commands_are_targets(target: str, command: str) -> None:
    assert f"make {target}\n" in README.read_text("utf-8")
    done = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert command in done.stdout


def test_configs_are_valid() -> None:
    shown = blocks(README, "toml")
    assert len(shown) >= 2
    for block in shown:
        assert StudyConfig.model_validate(tomllib.loads(block.text))


def test_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(paper_copy(tmp_path))
    for block in blocks(README, "python"):
        exec(compile(block.text, str(README), "exec"), {})
    assert "32.83" in capsys.readouterr().out


def test_pictures_are_pictures() -> None:
    pictures = [ROOT / link for link in relative_links(README) if link.endswith(".png")]
    assert pictures
    for picture in pictures:
        assert picture.read_bytes().startswith(b"\x89PNG"), picture


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    missing = [link for link in relative_links(page) if not (page.parent / link).exists()]
    assert missing == []
