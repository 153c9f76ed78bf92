"""`[harvest] cache = false`: the same job without activations on the disk."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_study import TinyStudy, write_study

from crosscoder.trainer import StepMetrics, Trainer
from labeler.cli.main import run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache")]


def streaming_study(folder: Path, models: Path) -> TinyStudy:
    return write_study(folder, models, harvest={"cache": False})


@pytest.fixture(scope="module")
def finished(
    tiny_model_folder: Path, tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> TinyStudy:
    study = streaming_study(tmp_path_factory.mktemp("streaming") / "study", tiny_model_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFLENS_CACHE", str(tiny_cache))
        assert run(["run", str(study.path), "--until", "collect"]) == 0
    return study


def count(study: TinyStudy, table: str) -> int:
    with closing(sqlite3.connect(study.database)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def losses(study: TinyStudy) -> list[float]:
    folder = study.stage_folder("train")
    assert folder is not None
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [float(json.loads(line)["loss"]) for line in lines]


def weights(study: TinyStudy) -> dict[str, torch.Tensor]:
    folder = study.stage_folder("train")
    assert folder is not None
    return dict(load_file(folder / "crosscoder.safetensors"))


def test_no_activations_are_on_the_disk_and_everything_else_is_there(finished: TinyStudy) -> None:
    harvested = finished.stage_folder("harvest")
    assert harvested is not None
    assert [path.name for path in harvested.iterdir()] == ["stream.json"]
    assert count(finished, "latent") == 96
    assert count(finished, "latent_scaling") == 192
    assert count(finished, "latent_set_member") > 0
    assert count(finished, "evidence") > 0


def test_a_finished_streaming_study_is_not_run_again(finished: TinyStudy) -> None:
    before = count(finished, "run")
    assert run(["run", str(finished.path), "--until", "collect"]) == 0
    assert count(finished, "run") == before


@pytest.mark.parametrize("steps", [1, 7, 13])
def test_a_streaming_run_that_was_killed_ends_with_the_same_losses_and_weights(
    finished: TinyStudy,
    tiny_model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
) -> None:
    study = streaming_study(tmp_path / "study", tiny_model_folder)
    step = Trainer.step

    def killed(self: Trainer, *arguments: Any) -> StepMetrics:
        if self.n_done == steps:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", killed)
        assert run(["run", str(study.path), "--until", "train"]) == 130
    assert len(losses(study)) == steps
    assert run(["run", str(study.path), "--until", "train"]) == 0
    assert len(losses(finished)) > 13
    assert losses(study) == losses(finished)
    ours, theirs = weights(study), weights(finished)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_stream_finds_about_what_a_cache_finds(
    finished: TinyStudy, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """The order of the batches differs, the data and the recipe do not."""
    cached = write_study(tmp_path / "cached", tiny_model_folder)
    assert run(["run", str(cached.path), "--until", "train"]) == 0
    assert len(losses(finished)) == pytest.approx(len(losses(cached)), abs=2)
    last = [sum(losses(study)[-3:]) / 3 for study in (finished, cached)]
    assert last[0] == pytest.approx(last[1], rel=0.2)
