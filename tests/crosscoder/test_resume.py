from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from crosscoders import StopAfter, random_batch, small_config
from safetensors.torch import load_file

from crosscoder.activations import ActivationStore, write_store
from crosscoder.checkpoints import TrainingCheckpoints
from crosscoder.config import TrainConfig
from crosscoder.train import train

CONFIG = TrainConfig(
    epochs=2, batch_size=64, checkpoint_every=3, dead_after_tokens=100, aux_coefficient=1.0
)
CROSSCODER = small_config(n_latents=64, k=1)
SCRIPT = """
import sys
from pathlib import Path
from test_resume import CONFIG, CROSSCODER, open_store
from crosscoder.checkpoints import TrainingCheckpoints
from crosscoder.train import train
train(open_store(Path(sys.argv[1])), CROSSCODER, CONFIG, Path(sys.argv[2]))
"""


def make_store(directory: Path) -> None:
    write_store(directory, random_batch(800).float(), model_names=("base", "tuned"))


def open_store(directory: Path) -> ActivationStore:
    return ActivationStore.open(directory).split(0.2, 0)


@pytest.fixture(scope="module")
def store_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("store")
    make_store(directory)
    return directory


@pytest.fixture(scope="module")
def uninterrupted(store_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("uninterrupted")
    train(open_store(store_directory), CROSSCODER, CONFIG, directory)
    return directory


def test_runs_of_these_tests_have_dead_latents_and_several_checkpoints(
    uninterrupted: Path,
) -> None:
    lines = losses(uninterrupted)
    assert len(lines) == 20
    assert lines[-1]["n_dead"] != lines[10]["n_dead"]


def losses(directory: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").open()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def assert_same_run(found: Path, expected: Path) -> None:
    weights = load_file(expected / "crosscoder.safetensors")
    for name, tensor in load_file(found / "crosscoder.safetensors").items():
        assert torch.equal(tensor, weights[name]), name
    assert losses(found) == losses(expected)
    results = [json.loads((d / "result.json").read_text()) for d in (found, expected)]
    for result in results:
        del result["directory"], result["sha256"]
    assert results[0] == results[1]


@pytest.mark.parametrize("stop", [1, 3, 7, 19])
def test_interrupted_run_ends_bit_by_bit_like_an_uninterrupted_one(
    store_directory: Path, uninterrupted: Path, tmp_path: Path, stop: int
) -> None:
    store = open_store(store_directory)
    with pytest.raises(KeyboardInterrupt):
        train(store, CROSSCODER, CONFIG, tmp_path, StopAfter(stop))
    train(store, CROSSCODER, CONFIG, tmp_path)
    assert_same_run(tmp_path, uninterrupted)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.slow
def test_killed_run_ends_bit_by_bit_like_an_uninterrupted_one(
    store_directory: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(store_directory), str(tmp_path)],
        cwd=Path(__file__).parent,
        env={"PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[2]}"},
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("checkpoints/step-*.safetensors")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "result.json").exists()
    train(open_store(store_directory), CROSSCODER, CONFIG, tmp_path)
    assert_same_run(tmp_path, uninterrupted)


def test_damaged_checkpoint_is_named_and_the_one_before_it_is_used(
    store_directory: Path,
    uninterrupted: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = open_store(store_directory)
    with pytest.raises(KeyboardInterrupt):
        train(store, CROSSCODER, CONFIG, tmp_path, StopAfter(8))
    older, newest = sorted(tmp_path.glob("checkpoints/*"))
    newest.write_bytes(newest.read_bytes()[:-100])
    with caplog.at_level(logging.INFO):
        train(store, CROSSCODER, CONFIG, tmp_path)
    assert f"{newest}: damaged" in caplog.text
    assert "goes on after step 3" in caplog.text
    assert older.name == "step-000000003.safetensors"
    assert_same_run(tmp_path, uninterrupted)


def test_checkpoint_of_another_configuration_is_not_used(
    store_directory: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    store = open_store(store_directory)
    other = CONFIG.model_copy(update={"seed": 9})
    with pytest.raises(KeyboardInterrupt):
        train(store, CROSSCODER, other, tmp_path, StopAfter(8))
    train(store, CROSSCODER, CONFIG, tmp_path)
    assert_same_run(tmp_path, uninterrupted)


def test_run_that_stopped_after_its_last_step_is_only_finished(
    store_directory: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    store = open_store(store_directory)
    with pytest.raises(KeyboardInterrupt):
        train(store, CROSSCODER, CONFIG, tmp_path, StopAfter(20))
    assert not (tmp_path / "result.json").exists()
    train(store, CROSSCODER, CONFIG, tmp_path)
    assert_same_run(tmp_path, uninterrupted)


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    checkpoints = TrainingCheckpoints(tmp_path / "c", "key")
    for step in (1, 2, 3, 4):
        checkpoints.write(step, {"step": torch.tensor(step)})
    assert len(list((tmp_path / "c").iterdir())) == 2
    newest = checkpoints.newest()
    assert newest is not None
    assert int(newest["step"]) == 4
