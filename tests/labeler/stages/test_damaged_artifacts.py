"""Artifacts that changed on the disk are named in one line and made again by the same command."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_study import TinyStudy

from labeler.cli.main import run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache")]
PLACES = (0.1, 0.5, 0.75, 0.99)


@pytest.fixture
def study(finished_study: TinyStudy, tmp_path: Path) -> TinyStudy:
    return finished_study.copied_to(tmp_path / "study")


def flip(path: Path, place: float) -> bytes:
    """Turn one bit; returns what was there before."""
    before = path.read_bytes()
    content = bytearray(before)
    content[int(place * (len(content) - 1))] ^= 8
    path.write_bytes(content)
    return before


def artifact(study: TinyStudy, stage: str, pattern: str) -> Path:
    folder = study.stage_folder(stage)
    assert folder is not None
    return sorted(folder.glob(pattern))[-1]


@pytest.mark.parametrize("place", PLACES)
def test_a_changed_shard_is_harvested_again_and_the_run_goes_on(
    study: TinyStudy, caplog: pytest.LogCaptureFixture, place: float
) -> None:
    shard = artifact(study, "harvest", "shard-*.safetensors")
    weights = artifact(study, "train", "crosscoder.safetensors").read_bytes()
    before = flip(shard, place)
    with caplog.at_level(logging.WARNING):
        assert run(["run", str(study.path), "--from", "train", "--until", "train"]) == 0
    assert f"{shard}: damaged: its content is not what was written; set aside as" in caplog.text
    assert shard.read_bytes() == before
    assert not list(shard.parent.glob("*.damaged"))
    assert artifact(study, "train", "crosscoder.safetensors").read_bytes() == weights


def test_a_single_stage_names_a_changed_shard_and_the_command_that_helps(
    study: TinyStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = artifact(study, "harvest", "shard-*.safetensors")
    scaling = artifact(study, "isolate", "scaling.safetensors")
    flip(shard, 0.75)
    scaling.unlink()
    assert run(["isolate", str(study.path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"difflens: {shard}: damaged")
    assert line.endswith("`harvest` makes it again")
    assert not scaling.exists()
    assert run(["harvest", str(study.path)]) == 0
    assert run(["isolate", str(study.path)]) == 0
    assert scaling.exists()


@pytest.mark.parametrize("name", ["crosscoder.safetensors", "config.json"])
def test_a_changed_crosscoder_is_trained_again_and_the_run_goes_on(
    study: TinyStudy, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    weights = artifact(study, "train", "crosscoder.safetensors").read_bytes()
    flip(artifact(study, "train", name), 0.5)
    artifact(study, "isolate", "scaling.safetensors").unlink()
    with caplog.at_level(logging.WARNING):
        assert run(["run", str(study.path), "--until", "isolate"]) == 0
    assert f"{name}: damaged" in caplog.text
    assert artifact(study, "train", "crosscoder.safetensors").read_bytes() == weights


@pytest.mark.parametrize("place", PLACES)
def test_a_changed_scaling_is_computed_again(
    study: TinyStudy, caplog: pytest.LogCaptureFixture, place: float
) -> None:
    """As a run that ended between the file and the database finds it."""
    scaling = artifact(study, "isolate", "scaling.safetensors")
    before = load_file(scaling)
    flip(scaling, place)
    with closing(sqlite3.connect(study.database)) as connection, connection:
        connection.execute("UPDATE run SET status = 'failed' WHERE kind = 'isolate'")
    with caplog.at_level(logging.WARNING):
        assert run(["isolate", str(study.path)]) == 0
    assert f"{scaling}: damaged" in caplog.text
    after = load_file(scaling)
    assert set(after) == set(before)
    assert all(np.array_equal(after[name], before[name], equal_nan=True) for name in before)
