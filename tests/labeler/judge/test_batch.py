"""Batches of calls: killed, shared by processes, limited, and counted to the token."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from postgres import fresh_database
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL
from stub_judge import answer
from stub_server import Received, Step, StubServer
from tiny_study import TinyStudy

from labeler.cli.main import run
from labeler.store.copy import copy_database

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache"), pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[3]
START = "import sys; from labeler.cli.main import main; main()"
KEY = "sk-very-secret-0815"

EXPLANATIONS = """
    SELECT l.latent_index, x.text, x.interpretable, x.confidence, x.is_control
    FROM explanation x JOIN latent l ON l.id = x.latent_id JOIN judge j ON j.id = x.judge_id
    WHERE j.name = 'stub' ORDER BY 1, 2, 5
"""
CALLS = """
    SELECT c.stage, c.request_sha256, c.status, c.raw FROM judge_call c
    JOIN judge j ON j.id = c.judge_id WHERE j.name = 'stub' ORDER BY 1, 2
"""
USAGE = """
    SELECT coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0)
    FROM judge_call c JOIN judge j ON j.id = c.judge_id WHERE j.name = 'stub'
"""
CLAIMS = "SELECT count(*) FROM work_item"


class CountingServer:
    """Judges by rule, slowly, and counts what it told of each request's tokens."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self._delay_s = delay_s
        self._lock = threading.Lock()
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.keys: list[str] = []

    def __call__(self, request: Received, number: int) -> Step:
        content = json.dumps(answer(request))
        prompt = sum(len(message["content"]) for message in request.body["messages"]) // 3
        with self._lock:
            self.prompt_tokens += prompt
            self.completion_tokens += len(content)
            self.keys.append(json.dumps(request.body, sort_keys=True))
        usage = {"prompt_tokens": prompt, "completion_tokens": len(content)}
        body = {
            "choices": [{"message": {"content": content}, "finish_reason": "stop"}],
            "usage": usage,
        }
        return Step(body=json.dumps(body), delay_s=self._delay_s)


def judged(study: TinyStudy, server: StubServer, url: str | None = None, **judge: Any) -> TinyStudy:
    """The study with the served judge, and no scores, whose calls tests of their own count."""
    tables: dict[str, Any] = {
        "judge": {
            "kind": "openai", "base_url": server.url, "model": "stub", "concurrency": 3, **judge
        },
        "scores": {"methods": []},
    }  # fmt: skip
    if url is not None:
        tables["database"] = {"url": url}
    return study.with_tables(**tables)


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query))]
    finally:
        engine.dispose()


def start(study: TinyStudy, number: int = 0) -> subprocess.Popen[bytes]:
    """`difflens label` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", START, "label", str(study.path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=(study.folder / f"stderr-{number}.txt").open("wb"),
    )


def wait_for_requests(server: StubServer, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while len(server.received) < count and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def study(finished_study: TinyStudy, tmp_path: Path) -> TinyStudy:
    """A finished study, to be labelled by another judge."""
    return finished_study.copied_to(tmp_path / "study")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def shared(
    request: pytest.FixtureRequest, study: TinyStudy, tmp_path: Path
) -> Iterator[tuple[TinyStudy, str]]:
    """The study with its database on either kind of server, and the database's URL."""
    if request.param == "sqlite":
        yield study, study.url
        return
    server: URL = request.getfixturevalue("postgres_server")
    with fresh_database(server, f"t_{uuid.uuid4().hex}") as url:
        made = url.render_as_string(hide_password=False)
        copy_database(study.url, made)
        yield study.with_tables(database={"url": made}), made


def undisturbed(study: TinyStudy, folder: Path) -> tuple[list[Any], list[Any], int]:
    """Explanations, calls and the number of requests of a run that nothing disturbs."""
    counting = CountingServer()
    with StubServer(counting).running() as server:
        alone = judged(study.copied_to(folder), server, f"sqlite:///{folder}/difflens.db")
        assert run(["label", str(alone.path)]) == 0
        found = rows(alone.url, EXPLANATIONS), rows(alone.url, CALLS)
        return *found, len(server.received)


def test_killed_again_and_again_pays_twice_only_for_what_was_in_flight(
    study: TinyStudy, tmp_path: Path
) -> None:
    explanations, calls, n_requests = undisturbed(study, tmp_path / "alone")
    counting = CountingServer(delay_s=0.15)
    with StubServer(counting).running() as server:
        slow = judged(study, server)
        kills = 0
        for after in (3, 7, 11):
            process = start(slow)
            wait_for_requests(server, after + kills * 3, process)
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        assert run(["label", str(slow.path)]) == 0
        received = len(server.received)
    assert rows(slow.url, EXPLANATIONS) == explanations
    assert rows(slow.url, CALLS) == calls
    assert n_requests <= received <= n_requests + 3 * kills
    assert rows(slow.url, CLAIMS) == [(0,)]


def test_two_processes_share_a_study_and_pay_for_no_call_twice(
    shared: tuple[TinyStudy, str], tmp_path: Path
) -> None:
    study, url = shared
    explanations, calls, n_requests = undisturbed(study, tmp_path / "alone")
    counting = CountingServer(delay_s=0.3)
    with StubServer(counting).running() as server:
        slow = judged(study, server)
        processes = [start(slow, number) for number in range(2)]
        ends = [process.wait(timeout=200) for process in processes]
    said = [(slow.folder / f"stderr-{number}.txt").read_text("utf-8") for number in range(2)]
    assert ends == [0, 0], said
    assert len(counting.keys) == len(set(counting.keys)) == n_requests
    assert rows(url, EXPLANATIONS) == explanations
    assert rows(url, CALLS) == calls
    assert rows(url, CLAIMS) == [(0,)]


def test_the_work_of_a_killed_worker_is_taken_over_at_once(
    shared: tuple[TinyStudy, str], tmp_path: Path
) -> None:
    study, url = shared
    explanations, _, _ = undisturbed(study, tmp_path / "alone")
    with StubServer(CountingServer(delay_s=0.3)).running() as server:
        slow = judged(study, server)
        first = start(slow)
        wait_for_requests(server, 4, first)
        second = start(slow, 1)
        wait_for_requests(server, 9, second)
        first.kill()
        first.wait()
        started = time.monotonic()
        assert second.wait(timeout=200) == 0
    assert time.monotonic() - started < 45
    assert rows(url, EXPLANATIONS) == explanations


def test_the_sums_in_the_database_are_the_usage_that_the_server_told(study: TinyStudy) -> None:
    counting = CountingServer()
    with StubServer(counting).running() as server:
        assert run(["label", str(judged(study, server).path)]) == 0
    assert rows(study.url, USAGE) == [(counting.prompt_tokens, counting.completion_tokens)]
    assert counting.prompt_tokens > 0


def test_a_limit_on_tokens_stops_before_it_is_passed_and_a_later_call_goes_on(
    study: TinyStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    explanations, _, n_requests = undisturbed(study, tmp_path / "alone")
    counting = CountingServer()
    limit = 6000
    with StubServer(counting).running() as server:
        limited = judged(study, server, max_tokens=200)
        call = ["label", str(limited.path), "--max-tokens-total", str(limit)]
        assert run(call) == 1
        used = counting.prompt_tokens + counting.completion_tokens
        assert 0 < used <= limit
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith(f"difflens: stopped at {used:,} of at most {limit:,} tokens")
        assert rows(study.url, "SELECT status FROM run WHERE kind = 'label' ORDER BY id")[-1] == (
            "interrupted",
        )
        before = len(server.received)
        assert run(["label", str(limited.path)]) == 0
        assert before + (n_requests - before) == len(server.received)
    assert rows(study.url, USAGE) == [(counting.prompt_tokens, counting.completion_tokens)]
    assert [row[:2] for row in rows(study.url, EXPLANATIONS)] == [row[:2] for row in explanations]


def test_a_limit_on_cost_needs_prices_and_holds(
    study: TinyStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    counting = CountingServer()
    with StubServer(counting).running() as server:
        without = judged(study, server)
        assert run(["label", str(without.path), "--max-cost", "0.01"]) == 2
        assert "judge.price_prompt_per_million" in capsys.readouterr().err
        prices = {"price_prompt_per_million": 1.0, "price_completion_per_million": 2.0}
        priced = judged(study, server, max_tokens=200, **prices)
        assert run(["label", str(priced.path), "--max-cost", "0.006"]) == 1
        assert "stopped at a cost of" in capsys.readouterr().err
        cost = (counting.prompt_tokens + 2 * counting.completion_tokens) / 1e6
        assert 0 < cost <= 0.006


def test_the_plan_tells_calls_and_costs_and_asks_nothing(
    study: TinyStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    counting = CountingServer()
    prices = {"price_prompt_per_million": 1000.0, "price_completion_per_million": 2000.0}
    with StubServer(counting).running() as server:
        priced = judged(study, server, **prices)
        assert run(["label", str(priced.path), "--plan"]) == 0
        assert server.received == []
        first = planned(capsys.readouterr().out)
        assert run(["label", str(priced.path)]) == 0
        n_requests = len(server.received)
        assert run(["label", str(priced.path), "--plan"]) == 0
        second = planned(capsys.readouterr().out)
    assert (first["to make"], first["answered"]) == (n_requests, 0)
    assert (second["to make"], second["answered"], second["cost"]) == (0, n_requests, 0.0)
    assert first["prompt"] == pytest.approx(counting.prompt_tokens, rel=0.4)
    assert first["cost"] == pytest.approx((first["prompt"] + 2 * first["answer"]) / 1000, rel=0.01)


def planned(output: str) -> dict[str, float]:
    """The row of the explanations in a printed plan."""
    (row,) = [line for line in output.splitlines() if " explain " in line]
    _, _, _, to_make, answered, prompt, told, cost = row.replace(",", "").split()
    return {
        "to make": int(to_make), "answered": int(answered), "prompt": float(prompt),
        "answer": float(told), "cost": float(cost),
    }  # fmt: skip


def test_latents_without_an_answer_are_asked_again_by_the_next_call(
    study: TinyStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    def answerer(request: Received, number: int) -> Step:
        return Step("no JSON today") if number < 6 else Step(json.dumps(answer(request)))

    with StubServer(answerer).running() as server:
        asked = judged(study, server, concurrency=1)
        assert run(["label", str(asked.path)]) == 0
        assert "2 without an answer" in capsys.readouterr().err
        before = len(server.received)
        assert run(["label", str(asked.path)]) == 0
        assert len(server.received) == before + 2
        assert "without an answer" not in capsys.readouterr().err
        assert run(["label", str(asked.path)]) == 0
        assert "already done" in capsys.readouterr().err


def test_a_key_reaches_the_server_and_no_file(
    study: TinyStudy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)

    def answerer(request: Received, number: int) -> Step:
        shown = request.headers["authorization"]
        if number == 0:
            return Step(status=503, body=json.dumps({"error": {"message": f"busy, {shown}"}}))
        if number == 1:
            return Step(f"Your header was {shown}")
        return Step(json.dumps(answer(request)))

    with StubServer(answerer).running() as server:
        keyed = judged(study, server, api_key_env="JUDGE_KEY", concurrency=1)
        assert run(["label", str(keyed.path)]) == 0
        assert run(["categorize", str(keyed.path)]) == 0
        assert run(["report", str(keyed.path)]) == 0
        assert {one.headers["authorization"] for one in server.received} == {f"Bearer {KEY}"}
    printed = capfd.readouterr()
    assert KEY not in printed.out + printed.err
    for path in study.folder.rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path
