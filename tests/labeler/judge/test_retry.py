"""What a server's Retry-After does to a batch, and what is said of it."""

from __future__ import annotations

import asyncio
import json

import pytest
from stub_server import Received, Step, StubServer, serving
from test_openai import GOOD, Sleeps, ask, statuses, subject

from labeler.errors import WorkError
from labeler.http.client import duration_words
from labeler.judge.base import JudgeReply
from labeler.judge.openai import OpenAiJudge
from labeler.judge.prompts import explain_request
from labeler.study.judge_config import JudgeSection


def busy(seconds: str) -> Step:
    body = json.dumps({"error": {"message": "slow"}})
    return Step(status=429, body=body, headers={"Retry-After": seconds})


def test_an_hour_is_said_once_and_waited_for_fully(caplog: pytest.LogCaptureFixture) -> None:
    sleeps, attempts = Sleeps(), list[JudgeReply]()
    with serving(busy("3600"), GOOD) as server:
        reply = ask(server, explain_request(subject()), sleeps, attempts, max_attempts=1)
    assert reply.status == "ok"
    assert sleeps.seconds == [3600.0]
    assert statuses(attempts) == ["transport_error", "ok"]
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"judge {server.url}: asks to wait 60 min (Retry-After); waiting until ")


def test_waits_in_a_row_use_up_no_tries_and_grow(caplog: pytest.LogCaptureFixture) -> None:
    sleeps = Sleeps()
    with serving(*[busy("1")] * 9, GOOD) as server:
        reply = ask(server, explain_request(subject()), sleeps, max_attempts=2)
    assert reply.status == "ok"
    assert len(sleeps.seconds) == 9
    assert sleeps.seconds[0] == 1.0
    assert sleeps.seconds[-1] == 30.0
    assert len(caplog.records) == len([one for one in sleeps.seconds if one >= 5])


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([busy("10800")], r"asks to wait 3 h \(Retry-After\), more than 60 min \(judge.longest"),
        ([busy("3000"), busy("3000")], r"asks to wait 100 min \(Retry-After\), more than 60 min"),
        ([busy("inf")], r"asks to wait 365 days \(Retry-After\), more than 60 min"),
    ],
)
def test_a_wait_beyond_the_limit_ends_the_batch_in_one_line(steps: list[Step], words: str) -> None:
    sleeps, attempts = Sleeps(), list[JudgeReply]()
    with serving(*steps) as server, pytest.raises(WorkError, match=words) as caught:
        ask(server, explain_request(subject()), sleeps, attempts)
    assert len(str(caught.value).splitlines()) == 1
    assert "what was answered is kept, run again later" in str(caught.value)
    assert statuses(attempts) == ["transport_error"] * len(steps)


def test_the_limit_is_a_key_of_the_config() -> None:
    with (
        serving(busy("8"), GOOD) as server,
        pytest.raises(WorkError, match=r"asks to wait 8 s .* more than 5 s"),
    ):
        ask(server, explain_request(subject()), longest_wait_s=5)


def test_another_server_goes_on_where_one_asks_for_too_long() -> None:
    sleeps = Sleeps()
    with serving(busy("10800")) as first, serving(GOOD) as second:

        async def work() -> list[JudgeReply]:
            judge = OpenAiJudge.from_section(
                JudgeSection.model_validate(
                    {
                        "kind": "openai",
                        "model": "m",
                        "endpoints": [{"base_url": first.url}, {"base_url": second.url}],
                    }
                ),
                sleep=sleeps,
                clock=sleeps.clock,
            )
            try:
                return [await judge.ask(explain_request(subject())) for _ in range(3)]
            finally:
                await judge.aclose()

        replies = asyncio.run(work())
    assert [reply.status for reply in replies] == ["ok"] * 3
    assert sleeps.seconds == []
    assert len(first.received) == 1


def test_a_server_that_is_away_after_its_wait_is_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def answer(_: Received, number: int) -> Step:
        return [busy("3000"), Step(status=500, body="starting"), GOOD][number]

    sleeps = Sleeps()
    with StubServer(answer).running() as server:
        reply = ask(server, explain_request(subject()), sleeps)
    assert reply.status == "ok"
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.5, "0.5 s"), (7, "7 s"), (119, "119 s"), (3600, "60 min"), (10800, "3 h")],
)
def test_lengths_of_time_in_words(seconds: float, words: str) -> None:
    assert duration_words(seconds) == words
