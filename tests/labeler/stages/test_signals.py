"""Ctrl-C, SIGTERM and SIGHUP at any moment: one line, the signal's status, no run left running."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from complaints import run_states
from sqlalchemy import Engine
from test_kill import LATENCY_S, MOMENTS, PAID_TWICE, PATIENCE_S, ROOT, ask, judged_study, tables
from tiny_study import TinyStudy, write_study

from labeler.cli.main import run
from labeler.store.engine import read_session, write_session
from labeler.store.runs import Claims, Worker, begin_run, runs_broken_off

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache"), pytest.mark.timeout(900)]
START = """
import os, signal, sys
# A suite that runs in the background, or under nohup, is started with signals ignored, and hands
# that on.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
for name in sys.argv.pop(1).split():
    signal.signal(getattr(signal, name), signal.SIG_IGN)
from labeler.cli.main import EndSignals, main
install = EndSignals.install
def install_and_say_so(signals):
    install(signals)
    os.write(2, b"ready\\n")
EndSignals.install = install_and_say_so
main()
"""
STATUSES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
LASTING = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t"


def hear_signals() -> None:
    """In a process that is about to begin, whatever the suite's own starter has ignored."""
    for number in STATUSES:
        signal.signal(number, signal.SIG_DFL)


def start(*arguments: str | Path, ignored: str = "") -> subprocess.Popen[str]:
    """A command in a process of its own, which has begun when this returns."""
    process = subprocess.Popen(
        [sys.executable, "-c", START, ignored, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    return process


def wait_for(process: subprocess.Popen[str], has_come: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not has_come():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def assert_ended(
    process: subprocess.Popen[str], how: signal.Signals, said_before: Sequence[str] = ()
) -> None:
    """With the signal's status, and one line that is not among what was said before."""
    _, errors = process.communicate(timeout=60)
    assert process.returncode == STATUSES[how], errors
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors
    said = [line for line in errors.splitlines() if line.startswith("difflens: ")]
    assert len(said) == 1, errors
    name = "" if how == signal.SIGINT else f" by {how.name}"
    assert said[0] == f"difflens: interrupted{name}; the same command goes on from here"


def test_a_stage_is_marked_interrupted_and_goes_on(tiny_model_folder: Path, tmp_path: Path) -> None:
    """Every stage but the report, each signal in two of them."""
    signals = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    with judged_study(tmp_path / "study", tiny_model_folder, LATENCY_S) as study:
        for moment, how in zip(MOMENTS[:6], (*signals, *signals[2:], *signals[:2]), strict=True):
            process = start("run", study.path)
            wait_for(process, partial(moment.has_come, study))
            # The second one changes nothing.
            process.send_signal(how)
            process.send_signal(how)
            assert_ended(process, how)
            assert run_states(study, moment.stage) == ["interrupted"]
        assert run(["run", str(study.path)]) == 0
        assert ask(study, PAID_TWICE) == []
        assert {status for _, status in tables(study)["runs"]} == {"done"}


@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.2, 0.5, 1.0, 2.0])
def test_a_hundred_times_while_libraries_are_loaded_and_work_begins(
    untouched: TinyStudy, delay_s: float
) -> None:
    process = start("run", untouched.path)
    time.sleep(delay_s)
    for _ in range(100):
        process.send_signal(signal.SIGINT)
        time.sleep(0.001)
    assert_ended(process, signal.SIGINT)
    if untouched.database.exists():
        assert "running" not in run_states(untouched, "harvest")


IMPORTING = """
import importlib, signal, sys
from labeler.cli.ending import EndSignals, Interrupted
signals = EndSignals()
signals.install()
sys.path.insert(0, sys.argv[1])
try:
    importlib.import_module("slow_library")
    while True:
        pass
except Interrupted:
    # A library written in C++ aborts the process where one of its imports is broken off.
    assert sys.modules["slow_library"].is_whole
    sys.exit(signals.status)
"""


@pytest.mark.parametrize("how", STATUSES, ids=lambda how: how.name)
def test_a_signal_waits_until_a_module_is_imported(how: signal.Signals, tmp_path: Path) -> None:
    source = f"import os, time; os.kill(os.getpid(), {int(how)}); time.sleep(0.2); is_whole = True"
    (tmp_path / "slow_library.py").write_text(source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING, tmp_path],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=hear_signals,
    )
    assert done.returncode == STATUSES[how], done.stderr


def test_a_hundred_times_in_the_middle_of_training(tiny_model_folder: Path, tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", tiny_model_folder, train={"checkpoint_every": 3})
    process = start("run", study.path)
    wait_for(process, lambda: MOMENTS[1].has_come(study))
    for _ in range(100):
        process.send_signal(signal.SIGINT)
    assert_ended(process, signal.SIGINT)
    assert run_states(study, "train") == ["interrupted"]


@pytest.mark.parametrize("how", STATUSES, ids=lambda how: how.name)
def test_a_question_and_the_review_pages(imported: Path, how: signal.Signals) -> None:
    asking = start("sql", imported, LASTING)
    time.sleep(3.0)
    asking.send_signal(how)
    assert_ended(asking, how)
    serving = start("review", imported, "--port", "0", "--reviewer", "ann")
    assert serving.stderr is not None
    assert "http://127.0.0.1:" in serving.stderr.readline()
    time.sleep(0.3)
    serving.send_signal(how)
    assert_ended(serving, how)


@pytest.mark.parametrize("ignored", [signal.SIGHUP, signal.SIGINT], ids=lambda how: how.name)
def test_what_the_caller_ignores_stays_ignored(imported: Path, ignored: signal.Signals) -> None:
    process = start("sql", imported, LASTING, ignored=ignored.name)
    time.sleep(1.0)
    process.send_signal(ignored)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert_ended(process, signal.SIGTERM)


def test_a_closed_terminal(untouched: TinyStudy) -> None:
    """What the command says on the way out has nowhere to go; the run is marked all the same."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "labeler.cli", "run", str(untouched.path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=lambda: (hear_signals(), os.login_tty(0)),
    )
    os.close(theirs)
    deadline = time.monotonic() + PATIENCE_S
    while "running" not in run_states_or_none(untouched, "harvest"):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.close(ours)
    assert process.wait(timeout=60) == 129
    assert run_states(untouched, "harvest") == ["interrupted"]


def run_states_or_none(study: TinyStudy, stage: str) -> list[str]:
    try:
        return run_states(study, stage)
    except sqlite3.OperationalError:
        return []


def test_a_run_that_a_killed_process_left_is_marked_by_the_next_command(
    finished_study: TinyStudy, tmp_path: Path
) -> None:
    study = finished_study.copied_to(tmp_path / "study")
    with closing(sqlite3.connect(study.database)) as connection:
        connection.execute(
            "INSERT INTO run (kind, status, config, config_sha256, stage_key, code_version,"
            " started_at) SELECT kind, 'running', config, config_sha256, 'another', code_version,"
            " started_at FROM run WHERE kind = 'harvest'"
        )
        connection.commit()
    assert run(["report", str(study.path)]) == 0
    assert run_states(study, "harvest") == ["done", "interrupted"]


def test_a_run_of_which_a_worker_has_a_piece_in_hand_is_not_broken_off(engine: Engine) -> None:
    with write_session(engine) as session:
        here = begin_run(session, "label", {}, "one")
        gone = begin_run(session, "label", {}, "two")
        Claims(Worker.here(), here).take(session, "explain", ["a"])
        elsewhere = Worker("another-machine", 1, "0", "x")
        ended = Worker(Worker.here().machine, 2**22 - 1, "0", "y")
        Claims(elsewhere, here).take(session, "explain", ["b"])
        Claims(ended, gone).take(session, "explain", ["c"])
    with read_session(engine) as session:
        assert runs_broken_off(session, ("label",)) == [gone]
        assert runs_broken_off(session, ("harvest",)) == []
