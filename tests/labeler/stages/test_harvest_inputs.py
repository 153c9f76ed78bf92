"""What a harvest is made from: adapters of the Hub by commit, and what has changed by name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from foreign_models import in_hub_cache, use_hub_cache
from sqlalchemy import select
from tiny_models import save_tiny_adapter
from tiny_study import TinyStudy, write_study

from labeler.cli.main import run
from labeler.errors import UsageError
from labeler.stages.base import missing_files
from labeler.store.engine import open_engine, read_session
from labeler.store.schema import SubjectModel
from labeler.study.study_file import StudyFile

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache")]
FIRST, SECOND = "a" * 40, "b" * 40
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the Hub with an adapter in it."""
    use_hub_cache(monkeypatch, tmp_path / "hub")
    adapter = save_tiny_adapter(tmp_path / "first")
    in_hub_cache(tmp_path / "hub", "owner/adapter", FIRST, adapter)
    return tmp_path / "hub"


@pytest.fixture
def study(hub: Path, tiny_model_folder: Path, tmp_path: Path) -> TinyStudy:
    """A study whose second model is the first one with that adapter on top."""
    base = str(tiny_model_folder / "base")
    models = [
        {"name": "base", "path": base},
        {"name": "tuned", "path": base, "adapter": "owner/adapter"},
    ]
    return write_study(tmp_path / "study", tiny_model_folder).with_tables(models=models)


def harvest_line(study: TinyStudy, capsys: Capture) -> str:
    capsys.readouterr()
    assert run(["status", str(study.path)]) == 0
    return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("harvest"))


def harvested(study: TinyStudy, capsys: Capture) -> str:
    capsys.readouterr()
    assert run(["harvest", str(study.path)]) == 0
    printed = capsys.readouterr()
    return printed.out + printed.err


def test_a_new_upload_of_an_adapter_makes_the_harvest_stale_and_is_named(
    study: TinyStudy, hub: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert "read by 2 models" in harvested(study, capsys)
    assert harvest_line(study, capsys).split() == ["harvest", "done"]
    in_hub_cache(hub, "owner/adapter", SECOND, save_tiny_adapter(tmp_path / "second", seed=3))
    line = harvest_line(study, capsys)
    assert line.split()[:2] == ["harvest", "stale"]
    assert line.endswith("its inputs have changed since: adapter of tuned")
    assert "read by 2 models" in harvested(study, capsys)
    assert "already done" in harvested(study, capsys)
    with read_session(open_engine(study.url)) as session:
        rows = list(session.scalars(select(SubjectModel.adapter).order_by(SubjectModel.id)))
    assert rows == [None, f"owner/adapter@{FIRST}", f"owner/adapter@{SECOND}"]


def test_a_pinned_adapter_stays_what_it_is(
    study: TinyStudy, hub: Path, tmp_path: Path, capsys: Capture
) -> None:
    models = [study.tables["models"][0], {**study.tables["models"][1], "adapter_revision": FIRST}]
    pinned = study.with_tables(models=models)
    harvested(pinned, capsys)
    in_hub_cache(hub, "owner/adapter", SECOND, save_tiny_adapter(tmp_path / "second", seed=3))
    assert harvest_line(pinned, capsys).split() == ["harvest", "done"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"harvest": {"layer": 0}}, "harvest.layer"),
        ({"corpus": {"faulty": "drop", "sample": 5}}, "corpus.faulty, corpus.sample, corpus.seed"),
        ({"harvest": {"skip_first": 2}, "corpus": {"max_length": 64}},
         "corpus.max_length, harvest.skip_first"),
    ],
)  # fmt: skip
def test_settings_that_changed_are_named(
    finished_study: TinyStudy,
    tmp_path: Path,
    capsys: Capture,
    changes: dict[str, Any],
    named: str,
) -> None:
    study = finished_study.copied_to(tmp_path / "study").with_tables(**changes)
    assert harvest_line(study, capsys).endswith(f"its inputs have changed since: {named}")


def test_files_that_changed_are_named(
    finished_study: TinyStudy, tmp_path: Path, capsys: Capture
) -> None:
    study = finished_study.copied_to(tmp_path / "study")
    models = [
        {**row, "path": str(shutil.copytree(row["path"], tmp_path / row["name"]))}
        for row in study.tables["models"]
    ]
    study = study.with_tables(models=models)
    assert harvest_line(study, capsys).split() == ["harvest", "done"]
    (tmp_path / "tuned" / "generation_config.json").write_text('{"top_k": 1}')
    with (study.folder / "corpus.jsonl").open("a") as corpus:
        corpus.write('{"id": "more", "text": "More text."}\n')
    assert harvest_line(study, capsys).endswith("changed since: corpus, model of tuned")


def test_an_adapter_of_the_hub_is_here_only_if_its_commit_is(study: TinyStudy, hub: Path) -> None:
    assert missing_files(StudyFile.read(study.path), "harvest") == []
    shutil.rmtree(hub)
    assert missing_files(StudyFile.read(study.path), "harvest") == ["adapter of tuned"]


def test_a_revision_of_no_adapter_is_a_mistake(study: TinyStudy) -> None:
    models = [{**study.tables["models"][0], "adapter_revision": "main"}, study.tables["models"][1]]
    with pytest.raises(UsageError, match=r"models\.0.*adapter_revision: no adapter is named"):
        StudyFile.read(study.with_tables(models=models).path)
