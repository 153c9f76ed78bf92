"""Sets the demo's work folder up: the shipped study, its corpus and adapter, and the models."""

from __future__ import annotations

import shutil
from importlib.resources import as_file, files
from pathlib import Path

from labeler.cli.demo.fetch import MINILM, SMOLLM2, fetch
from labeler.errors import UsageError
from labeler.study.study_file import StudyFile

STUDY_NAME = "study.toml"
ASSETS = (STUDY_NAME, "corpus.jsonl", "simpo-adapter")


def prepare(workdir: Path) -> StudyFile:
    """Copy the demo's study into `workdir`, put the models next to it, and read it.

    A folder that holds a demo already is used as it is, so that a second call goes on from the
    first. Raises UsageError where `workdir` holds another study.
    """
    if (workdir / STUDY_NAME).is_file():
        _require_same_study(workdir)
    else:
        _copy_assets(workdir)
    _place(fetch(SMOLLM2), workdir / "models" / SMOLLM2.name)
    _place(fetch(MINILM), workdir / "models" / MINILM.name)
    return StudyFile.read(workdir / STUDY_NAME)


def _shipped_study() -> str:
    return files("labeler.cli.demo").joinpath("assets", STUDY_NAME).read_text(encoding="utf-8")


def _require_same_study(workdir: Path) -> None:
    path = workdir / STUDY_NAME
    if path.read_text(encoding="utf-8") != _shipped_study():
        raise UsageError(
            f"{path}: is not this version's demo; name another folder with --workdir, or run the "
            f"study that is there: difflens run {path}"
        )


def _copy_assets(workdir: Path) -> None:
    """Copy everything but study.toml first, so that its presence means that all is there."""
    workdir.mkdir(parents=True, exist_ok=True)
    with as_file(files("labeler.cli.demo").joinpath("assets")) as assets:
        for name in reversed(ASSETS):
            source, target = assets / name, workdir / name
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copyfile(source, target)


def _place(source: Path, target: Path) -> None:
    """Make `source` visible at `target` by a link, or by a copy where links are not to be had."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        target.symlink_to(source, target_is_directory=True)
    except OSError:
        shutil.copytree(source, target)
