"""Killed in the middle of every stage, a study ends with the tables of an undisturbed one."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from stub_judge import judging_server
from stub_server import StubServer
from tiny_study import STAGES, TinyStudy, write_study

from labeler.cli.main import run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache"), pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[3]
START = """
import signal
# A suite that a script runs in the background is started with Ctrl-C ignored, and hands that on.
signal.signal(signal.SIGINT, signal.default_int_handler)
from labeler.cli.main import main
main()
"""
LATENCY_S = 0.03
PATIENCE_S = 600.0

TABLES = {
    "latents": """
        SELECT latent_index, density, n_documents, max_activation FROM latent ORDER BY 1
    """,
    "scaling": """
        SELECT l.latent_index, t.name, r.name, s.delta_norm, s.nu_error, s.nu_error_low,
            s.nu_reconstruction, s.nu_reconstruction_high, s.n_active
        FROM latent_scaling s JOIN latent l ON l.id = s.latent_id
        JOIN subject_model t ON t.id = s.target_model_id
        JOIN subject_model r ON r.id = s.reference_model_id ORDER BY 1, 2, 3
    """,
    "sets": """
        SELECT s.name, s.rule, m.rank, l.latent_index, m.score FROM latent_set s
        JOIN latent_set_member m ON m.latent_set_id = s.id
        JOIN latent l ON l.id = m.latent_id ORDER BY 1, 3
    """,
    "evidence": """
        SELECT l.latent_index, e.kind, e.split, e.document_id, e.start, e.tokens, e.activations
        FROM evidence e JOIN latent l ON l.id = e.latent_id ORDER BY 1, 2, 3, 4, 5
    """,
    "explanations": """
        SELECT l.latent_index, x.text, x.interpretable, x.confidence
        FROM explanation x JOIN latent l ON l.id = x.latent_id ORDER BY 1, 2
    """,
    "labels": """
        SELECT comparison, side, latent_index, explanation, category, outcome, confidence, judge
        FROM v_effective_label ORDER BY 1, 2, 3, 5
    """,
    "all labels": """
        SELECT l.latent_index, j.outcome, j.confidence FROM judge_label j
        JOIN latent l ON l.id = j.latent_id ORDER BY 1, 2
    """,
    "calls": """
        SELECT stage, request_sha256, status, raw FROM judge_call ORDER BY 1, 2
    """,
    "change": "SELECT * FROM v_category_change ORDER BY comparison, category",
    "statistics": """
        SELECT category, target_count, reference_count, percent_change, ci_low, ci_high, p_value,
            q_value, verdict, is_stale FROM v_category_change_statistic ORDER BY category
    """,
    "runs": "SELECT kind, status FROM run ORDER BY id",
}
PAID_TWICE = """
    SELECT judge_id, request_sha256, sample FROM judge_call WHERE status = 'ok'
    GROUP BY judge_id, request_sha256, sample HAVING count(*) > 1
"""


def ask(study: TinyStudy, statement: str) -> list[tuple[Any, ...]]:
    """Rows of the study's database; none where it has no such table yet."""
    try:
        uri = f"file:{study.database}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=30)) as connection:
            return connection.execute(statement).fetchall()
    except sqlite3.OperationalError:
        return []


def tables(study: TinyStudy) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that a study found, without times and numbers of rows."""
    return {name: ask(study, statement) for name, statement in TABLES.items()}


def is_running(study: TinyStudy, stage: str) -> bool:
    return bool(ask(study, f"SELECT 1 FROM run WHERE kind = '{stage}' AND status = 'running'"))


@dataclass(frozen=True)
class Moment:
    """A point in the middle of a stage."""

    stage: str
    has_come: Callable[[TinyStudy], bool]


def has_file(stage: str, pattern: str) -> Callable[[TinyStudy], bool]:
    return lambda study: any((study.folder / "artifacts" / stage).glob(f"*/{pattern}"))


def has_calls(stage: str, count: int) -> Callable[[TinyStudy], bool]:
    counted = f"SELECT 1 FROM judge_call WHERE stage = '{stage}' LIMIT 1 OFFSET {count - 1}"
    return lambda study: bool(ask(study, counted))


MOMENTS = (
    Moment("harvest", has_file("harvest", "shard-00003.safetensors")),
    Moment("train", has_file("train", "checkpoints/step-*.safetensors")),
    Moment("isolate", lambda study: is_running(study, "isolate")),
    Moment("collect", lambda study: is_running(study, "collect")),
    Moment("label", has_calls("explain", 3)),
    Moment("categorize", has_calls("categorize", 3)),
    Moment("report", lambda study: is_running(study, "report")),
)


def start(study: TinyStudy) -> subprocess.Popen[bytes]:
    """`difflens run` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", START, "run", str(study.path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=(study.folder / "stderr.txt").open("ab"),
    )


def end_at(study: TinyStudy, moment: Moment, how: signal.Signals) -> int:
    """Run until a moment, end the run there, and return the process's status."""
    process = start(study)
    deadline = time.monotonic() + PATIENCE_S
    try:
        while not moment.has_come(study):
            assert process.poll() is None, (study.folder / "stderr.txt").read_text("utf-8")
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        process.send_signal(how)
        status = process.wait(timeout=60)
    return status


@contextmanager
def judged_study(folder: Path, models: Path, delay_s: float = 0.0) -> Iterator[TinyStudy]:
    """A study with many small shards, frequent checkpoints, and a judge that answers by rule."""
    with judging_server(delay_s).running() as server:
        yield write_study(
            folder,
            models,
            harvest={"shard_tokens": 64},
            train={"checkpoint_every": 3},
            judge=judge_at(server),
            isolate={"top": 6},
            collect={"window": 12},
        )


def judge_at(server: StubServer) -> dict[str, Any]:
    return {"kind": "openai", "base_url": server.url, "model": "stub", "concurrency": 2}


@pytest.fixture(scope="module")
def undisturbed(
    tiny_model_folder: Path, tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[tuple[Any, ...]]]:
    """The tables of a study that ran without a stop."""
    folder = tmp_path_factory.mktemp("undisturbed") / "study"
    with pytest.MonkeyPatch.context() as patch, judged_study(folder, tiny_model_folder) as study:
        patch.setenv("DIFFLENS_CACHE", str(tiny_cache))
        assert run(["run", str(study.path)]) == 0
        return tables(study)


def test_killed_once_in_every_stage(
    undisturbed: dict[str, list[tuple[Any, ...]]], tiny_model_folder: Path, tmp_path: Path
) -> None:
    with judged_study(tmp_path / "study", tiny_model_folder, LATENCY_S) as study:
        for moment in MOMENTS:
            assert end_at(study, moment, signal.SIGKILL) == -signal.SIGKILL
            assert is_running(study, moment.stage), f"{moment.stage} had ended before the kill"
        assert run(["run", str(study.path)]) == 0
        found = tables(study)
        assert ask(study, PAID_TWICE) == []
    for name, expected in undisturbed.items():
        assert found[name] == expected, name
    assert [kind for kind, _ in found["runs"]] == list(STAGES)
    assert not list(study.folder.rglob("*.partial"))


def test_ctrl_c_while_the_judge_answers(
    undisturbed: dict[str, list[tuple[Any, ...]]], tiny_model_folder: Path, tmp_path: Path
) -> None:
    with judged_study(tmp_path / "study", tiny_model_folder, LATENCY_S) as study:
        assert run(["run", str(study.path), "--until", "collect"]) == 0
        assert end_at(study, MOMENTS[4], signal.SIGINT) == 130
        assert ask(study, "SELECT status FROM run WHERE kind = 'label'") == [("interrupted",)]
        words = (study.folder / "stderr.txt").read_text(encoding="utf-8")
        assert words.splitlines()[-1].startswith("difflens: interrupted")
        assert "Traceback" not in words
        assert run(["run", str(study.path)]) == 0
        assert ask(study, PAID_TWICE) == []
        assert tables(study) == undisturbed


@pytest.mark.parametrize("stage", STAGES)
def test_stopped_after_the_work_and_before_the_record_of_it(
    finished_study: TinyStudy, tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the commit of a stage's rows and that of its run."""
    study = finished_study.copied_to(tmp_path / "study")
    before = tables(study)
    with closing(sqlite3.connect(study.database)) as connection:
        after = STAGES[STAGES.index(stage) :]
        marks = ", ".join("?" * len(after))
        connection.execute(f"UPDATE run SET status = 'running' WHERE kind IN ({marks})", after)
        connection.commit()
    assert run(["run", str(study.path)]) == 0
    assert tables(study) == before
