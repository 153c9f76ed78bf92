"""Several servers of one model share a batch."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Sequence

import pytest
from judge_subjects import refusals, subject
from stub_server import Step, StubServer, serving

from labeler.errors import UsageError, WorkError
from labeler.http.client import Endpoint
from labeler.judge.base import JudgeReply
from labeler.judge.endpoints import Endpoints
from labeler.judge.openai import OpenAiJudge, endpoints_of
from labeler.judge.prompts import explain_request
from labeler.study.judge_config import JudgeSection

ANSWER = {"explanation": "apologies", "interpretable": True, "confidence": 0.8}
GOOD = Step(json.dumps(ANSWER))


def section(urls: Sequence[str], **values: object) -> JudgeSection:
    rows = [{"base_url": url} for url in urls]
    made = {"kind": "openai", "model": "m", "concurrency": 2, "endpoints": rows} | values
    return JudgeSection.model_validate(made)


def ask_many(judge: OpenAiJudge, n: int) -> list[JudgeReply]:
    """Ask n questions with as many workers as the judge takes requests."""
    left = iter(range(n))
    replies: list[JudgeReply] = []

    async def work() -> None:
        for number in left:
            replies.append(await judge.ask(explain_request(subject(refusals()), sample=number)))

    async def all_of_it() -> None:
        try:
            await asyncio.gather(*(work() for _ in range(judge.concurrency)))
        finally:
            await judge.aclose()

    asyncio.run(all_of_it())
    return replies


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_servers_share_the_work_and_are_one_judge() -> None:
    slow = Step(json.dumps(ANSWER), delay_s=0.02)
    with serving(slow) as first, serving(slow) as second:
        made = section([first.url, second.url])
        judge = OpenAiJudge.from_section(made)
        replies = ask_many(judge, 24)
    assert [reply.status for reply in replies] == ["ok"] * 24
    assert len(first.received) + len(second.received) == 24
    assert min(len(first.received), len(second.received)) >= 6
    alone = JudgeSection(kind="openai", model="m", base_url="http://127.0.0.1:1/v1")
    assert judge.identity == OpenAiJudge.from_section(alone).identity


def test_each_server_has_its_own_concurrency_and_name_of_the_model() -> None:
    made = JudgeSection.model_validate(
        {
            "kind": "openai",
            "model": "m",
            "concurrency": 3,
            "endpoints": [
                {"base_url": "http://a:1/v1", "concurrency": 5, "model": "served-as"},
                {"base_url": "http://b:1/v1"},
            ],
        }
    )
    first, second = endpoints_of(made)
    assert (first.concurrency, first.model) == (5, "served-as")
    assert (second.concurrency, second.model) == (3, "m")
    assert OpenAiJudge.from_section(made).concurrency == 8


def test_a_dead_server_is_drained_to_the_others() -> None:
    dead = f"http://127.0.0.1:{free_port()}/v1"
    with serving(Step(json.dumps(ANSWER), delay_s=0.01)) as alive:
        replies = ask_many(OpenAiJudge.from_section(section([dead, alive.url])), 20)
    assert [reply.status for reply in replies] == ["ok"] * 20
    assert len(alive.received) == 20


@pytest.mark.slow
def test_a_server_that_dies_in_mid_batch_loses_no_question() -> None:
    slow = Step(json.dumps(ANSWER), delay_s=0.02)
    dying = StubServer(lambda _, number: slow if number < 5 else Step(reset=True))
    with dying.running(), serving(slow) as alive:
        replies = ask_many(OpenAiJudge.from_section(section([dying.url, alive.url])), 30)
    assert [reply.status for reply in replies] == ["ok"] * 30
    assert len(alive.received) >= 25


@pytest.mark.slow
def test_a_server_that_comes_back_gets_work_again() -> None:
    away = range(2, 5)
    back = StubServer(lambda _, n: Step(status=503, body="loading") if n in away else GOOD)
    with back.running(), serving(Step(json.dumps(ANSWER), delay_s=0.05)) as other:
        replies = ask_many(OpenAiJudge.from_section(section([back.url, other.url])), 80)
    assert {reply.status for reply in replies} == {"ok"}
    assert len(back.received) > 2 * len(away)


def test_a_restarted_server_is_waited_for() -> None:
    """One server, gone in mid-batch and back on the same address half a second later."""
    port = free_port()

    async def restart(judge: OpenAiJudge) -> list[JudgeReply]:
        request = explain_request(subject(refusals()))
        with StubServer(lambda *_: GOOD, port).running():
            first = await judge.ask(request)
        asked = asyncio.create_task(judge.ask(request))
        await asyncio.sleep(0.5)
        assert not asked.done()
        with StubServer(lambda *_: GOOD, port).running():
            second = await asyncio.wait_for(asked, 20)
        await judge.aclose()
        return [first, second]

    made = JudgeSection(
        kind="openai", model="m", base_url=f"http://127.0.0.1:{port}/v1", max_attempts=2
    )
    replies = asyncio.run(restart(OpenAiJudge.from_section(made)))
    assert [reply.status for reply in replies] == ["ok", "ok"]


def test_a_server_that_stays_away_ends_the_batch_with_what_to_do() -> None:
    port = free_port()

    async def leave(judge: OpenAiJudge) -> None:
        request = explain_request(subject(refusals()))
        with StubServer(lambda *_: GOOD, port).running():
            await judge.ask(request)
        await judge.ask(request)

    made = JudgeSection(
        kind="openai", model="m", base_url=f"http://127.0.0.1:{port}/v1", restart_wait_s=0.3
    )
    with pytest.raises(WorkError, match=r"did not come back within 0\.3 s .*run again to go on"):
        asyncio.run(leave(OpenAiJudge.from_section(made)))


def test_all_requests_wait_while_a_server_asks_for_time() -> None:
    now = 0.0
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        slept.append(seconds)

    async def work() -> None:
        endpoint = Endpoint("http://a:1/v1", "m", concurrency=2)
        endpoints = Endpoints((endpoint,), sleep, lambda: now)
        endpoints.asked_to_wait(endpoint, 7.0)
        await endpoints.take()
        await endpoints.take()

    asyncio.run(work())
    assert slept == [7.0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"endpoints": []}, "judge.base_url: missing"),
        ({"base_url": "http://c:1/v1"}, "stands next to"),
        ({"endpoints": [{"base_url": "http://a:1/v1"}] * 2}, "named twice"),
    ],
)
def test_addresses_that_contradict_each_other_are_refused(
    values: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        endpoints_of(section(["http://a:1/v1", "http://b:1/v1"], **values))


@pytest.mark.parametrize(
    "url", ["http://u:secret@host/v1", "http://host/v1?key=secret", "host/v1", "ftp://host/v1"]
)
def test_an_address_with_a_secret_or_without_a_host_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="base_url") as caught:
        JudgeSection(kind="openai", model="m", base_url=url)
    message = caught.value.errors()[0]["msg"]  # type: ignore[attr-defined]
    assert "secret" not in message
