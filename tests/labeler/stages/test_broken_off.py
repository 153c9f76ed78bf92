"""Work that a full disk or Ctrl-C ends loses nothing, and the next run goes on."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from complaints import Capture, assert_names, complaint, run_states, sides
from tiny_study import TinyStudy

from labeler.cli.main import run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache")]


def test_a_full_disk_keeps_the_whole_shards(
    untouched: TinyStudy, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    written: list[str] = []

    def full_after_three(tensors: Any, path: Path, metadata: Any = None) -> None:
        if len(written) == 3:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(str(path))
        save_file(tensors, path, metadata=metadata)

    with monkeypatch.context() as patch:
        patch.setattr("crosscoder.tensor_files.save_file", full_after_three)
        assert run(["run", str(untouched.path)]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert_names(line, "difflens: ", "shard-00003.safetensors", "disk is full")
    folder = untouched.stage_folder("harvest")
    assert folder is not None
    shards = sorted(folder.glob("*.safetensors"))
    assert [shard.name for shard in shards] == [f"shard-0000{n}.safetensors" for n in range(3)]
    times = [shard.stat().st_mtime_ns for shard in shards]
    assert run(["harvest", str(untouched.path)]) == 0
    assert [shard.stat().st_mtime_ns for shard in shards] == times
    assert len(list(folder.glob("shard-*.safetensors"))) > 3


def test_a_full_disk_while_training_keeps_the_checkpoints(
    untouched: TinyStudy, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crosscoder.train import MetricsLog

    write = MetricsLog.write
    steps: list[int] = []

    def full_after_twelve(log: MetricsLog, metrics: Any, seconds: float) -> None:
        if len(steps) == 12:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        steps.append(1)
        write(log, metrics, seconds)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "write", full_after_twelve)
        assert run(["run", str(untouched.path), "--until", "train"]) == 1
    assert_names(capsys.readouterr().err.splitlines()[-1], "difflens: ", "No space left")
    assert run_states(untouched, "train") == ["failed"]
    folder = untouched.stage_folder("train")
    assert folder is not None
    kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert kept == ["step-000000005.safetensors", "step-000000010.safetensors"]
    assert run(["train", str(untouched.path)]) == 0
    assert run_states(untouched, "train") == ["done"]
    metrics = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in metrics] == list(range(1, len(metrics) + 1))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_output_that_nobody_can_keep(imported: Path, capsys: Capture) -> None:
    line = complaint(capsys, "labels", "export", imported, "/dev/full", status=1)
    assert_names(line, "No space left")
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [sys.executable, "-c", "from labeler.cli.main import main; main()", "sql",
             str(imported), "select 1"],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == ["difflens: No space left on device"]


def test_a_full_disk_while_the_database_is_written(
    imported: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from labeler.store import engine

    prepare = engine._prepare_sqlite

    def without_room(connection: Any, record: object) -> None:
        prepare(connection, record)
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    more = tmp_path / "more.csv"
    lines = [f"big,target,{n},{'word ' * 50},safety\n" for n in range(2000)]
    header = "comparison,side,latent_index,explanation,category\n"
    more.write_text(header + "".join(lines), encoding="utf-8")
    before = sides(tmp_path / "difflens.db")
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_prepare_sqlite", without_room)
        line = complaint(capsys, "import", imported, more, status=1)
    assert_names(line, "difflens.db", "full")
    assert sides(tmp_path / "difflens.db") == before


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("stage", "target"),
    [
        ("train", "crosscoder.trainer.Trainer.step"),
        ("isolate", "crosscoder.scaling.latent_scaling"),
        ("label", "labeler.labeling.explain.label_latents"),
        ("report", "labeler.stages.report.build_report"),
    ],
)
def test_ctrl_c_ends_with_130_and_the_next_run_goes_on(
    finished_study: TinyStudy,
    tmp_path: Path,
    stage: str,
    target: str,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = finished_study.copied_to(tmp_path / "study")
    with monkeypatch.context() as patch:
        patch.setattr(target, interrupt)
        assert run(["run", str(study.path), "--from", stage]) == 130
    lines = capsys.readouterr().err.splitlines()
    assert "difflens: interrupted; the same command goes on from here" in lines
    assert run_states(study, stage)[-1] == "interrupted"
    assert run(["run", str(study.path), "--from", stage, "--until", stage]) == 0
    assert run_states(study, stage) == ["done", "done"]


def test_two_runs_at_once(untouched: TinyStudy, capsys: Capture) -> None:
    from labeler.study.study_file import StudyFile, study_lock

    with study_lock(StudyFile.read(untouched.path)):
        line = complaint(capsys, "run", untouched.path, status=1)
    assert_names(line, untouched.path, str(os.getpid()), "wait for it")
