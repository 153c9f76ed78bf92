"""How a server wants to be asked is found out by the first request, and whom a refusal concerns."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import pytest
from judge_subjects import refusals, subject
from stub_server import Answerer, Received, Step, StubServer

from labeler.errors import WorkError
from labeler.http.client import UNKNOWN_IN_A_ROW
from labeler.judge.base import ChatMessage, JudgeReply, JudgeRequest
from labeler.judge.openai import CONTROL_QUESTION, OpenAiJudge
from labeler.judge.prompts import explain_request
from labeler.study.judge_config import JudgeSection

EXPLAIN = explain_request(subject(refusals()))
GOOD = Step(json.dumps({"explanation": "apologies", "interpretable": True, "confidence": 0.8}))


def error(message: str, status: int = 400) -> Step:
    return Step(status=status, body=json.dumps({"error": {"message": message}}))


def about(words: str) -> JudgeRequest:
    return replace(EXPLAIN, messages=(ChatMessage("user", words),))


def reasoning_server(request: Received, _: int) -> Step:
    """Wants the newer key and no temperature, and complains of one thing at a time."""
    if "max_tokens" in request.body:
        return error("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
    if "temperature" in request.body:
        return error("Unsupported value: 'temperature' does not support 0 with this model.")
    return GOOD


def old_server(request: Received, _: int) -> Step:
    """Knows the older key alone."""
    if "max_completion_tokens" in request.body:
        return error("unknown field: max_completion_tokens", 422)
    return GOOD


def plain_server(request: Received, number: int) -> Step:
    return GOOD


def ask_all(
    judge: OpenAiJudge, requests: Sequence[JudgeRequest], attempts: list[JudgeReply] | None = None
) -> list[JudgeReply]:
    seen = attempts if attempts is not None else []

    async def note(reply: JudgeReply) -> None:
        seen.append(reply)

    async def work() -> list[JudgeReply]:
        try:
            return list(await asyncio.gather(*(judge.ask(each, note) for each in requests)))
        finally:
            await judge.aclose()

    return asyncio.run(work())


def judge_of(server: StubServer, **section: object) -> OpenAiJudge:
    values = {"kind": "openai", "base_url": server.url, "model": "m"} | section
    return OpenAiJudge.from_section(JudgeSection(**values))  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_first_request_goes_alone_and_finds_out_for_all() -> None:
    attempts: list[JudgeReply] = []
    with StubServer(reasoning_server).running() as server:
        judge = judge_of(server)
        replies = ask_all(judge, [about(str(number)) for number in range(12)], attempts)
        ask_all(judge, [about("later")])
    assert [reply.status for reply in replies] == ["ok"] * 12
    assert [reply.status for reply in attempts[:3]] == ["transport_error", "transport_error", "ok"]
    assert len(server.received) == 2 + 12 + 1
    known = {
        "max_tokens_key": "max_completion_tokens", "sends_temperature": False, "json_schema": True,
    }  # fmt: skip
    assert {json.dumps(reply.parameters) for reply in replies} == {json.dumps(known)}
    assert all("temperature" not in one.body for one in server.received[2:])


def test_what_an_earlier_run_found_out_is_used_from_the_first_request_on() -> None:
    known = {"max_tokens_key": "max_completion_tokens", "sends_temperature": False, "later": 1}
    with StubServer(reasoning_server).running() as server:
        judge = judge_of(server)
        judge.use_parameters(known)
        ask_all(judge, [about(str(number)) for number in range(3)])
    assert len(server.received) == 3


def test_a_server_that_changed_since_is_found_out_again() -> None:
    with StubServer(old_server).running() as server:
        judge = judge_of(server)
        judge.use_parameters({"max_tokens_key": "max_completion_tokens", "sends_temperature": True})
        (reply,) = ask_all(judge, [EXPLAIN])
    assert reply.parameters == {
        "max_tokens_key": "max_tokens", "sends_temperature": True, "json_schema": True,
    }  # fmt: skip


def test_the_config_has_the_last_word() -> None:
    fixed = {"max_tokens_key": "max_completion_tokens", "send_temperature": False}
    with StubServer(reasoning_server).running() as server:
        ask_all(judge_of(server, **fixed), [EXPLAIN])
        assert len(server.received) == 1
        with pytest.raises(WorkError, match=r"max_completion_tokens.*judge\.max_tokens_key"):
            ask_all(judge_of(server, max_tokens_key="max_tokens"), [EXPLAIN])
    assert len(server.received) == 2


def test_a_server_that_takes_neither_key_stops_the_batch() -> None:
    def answerer(request: Received, _: int) -> Step:
        key = next(key for key in request.body if key.startswith("max_"))
        return error(f"unsupported parameter: {key}")

    with StubServer(answerer).running() as server:
        with pytest.raises(WorkError, match="the other way was refused too"):
            ask_all(judge_of(server), [EXPLAIN])
        assert len(server.received) == 2


@pytest.mark.parametrize("order", [(reasoning_server, old_server), (old_server, reasoning_server)])
def test_servers_of_one_judge_are_asked_alike_or_not_at_all(order: tuple[Answerer, ...]) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(StubServer(one).running()) for one in order]
        section = JudgeSection.model_validate(
            {
                "kind": "openai", "model": "m",
                "endpoints": [{"base_url": one.url, "concurrency": 1} for one in servers],
            }
        )  # fmt: skip
        judge = OpenAiJudge.from_section(section)
        with pytest.raises(WorkError, match=r"get the same|the other way was refused"):
            ask_all(judge, [about(str(number)) for number in range(8)])


def test_a_server_without_schemas_stops_the_batch_before_it_spends() -> None:
    refusal = error("response_format json_schema is not supported by this model")
    with StubServer(lambda *_: refusal).running() as server:
        with pytest.raises(WorkError, match=r"needs response_format json_schema.*vLLM does"):
            ask_all(judge_of(server), [EXPLAIN])
        assert len(server.received) == 1


def is_control(request: Received) -> bool:
    return bool(request.body["messages"][0]["content"] == CONTROL_QUESTION)


def test_an_unknown_refusal_of_one_request_is_its_own() -> None:
    def answerer(request: Received, _: int) -> Step:
        bad = "odd" in request.body["messages"][0]["content"]
        return error("computer says no") if bad else GOOD

    with StubServer(answerer).running() as server:
        judge = judge_of(server, concurrency=1)
        first, good, second = ask_all(judge, [about("odd 1"), about("fine"), about("odd 2")])
    assert (first.status, good.status, second.status) == ("refused", "ok", "refused")
    assert first.error == second.error == "400: computer says no"
    assert [is_control(one) for one in server.received] == [False, True, False, False]
    assert (first.prompt_tokens, second.prompt_tokens) == (11, None)
    control = server.received[1].body
    assert control["response_format"] == server.received[0].body["response_format"]


def test_an_unknown_refusal_of_every_request_stops_the_batch() -> None:
    with StubServer(lambda *_: error("computer says no")).running() as server:
        attempts: list[JudgeReply] = []
        with pytest.raises(WorkError, match="without any text of the corpus is refused as well"):
            ask_all(judge_of(server), [EXPLAIN], attempts)
        assert [reply.status for reply in attempts] == ["transport_error"]
        assert len(server.received) == 2


def test_many_unknown_refusals_in_a_row_are_asked_about_again() -> None:
    """A server that breaks in mid-batch refuses everything: only a few are taken for refused."""

    def answerer(request: Received, number: int) -> Step:
        return GOOD if number == 0 else error("computer says no")

    attempts: list[JudgeReply] = []
    with StubServer(answerer).running() as server, pytest.raises(WorkError, match="as well"):
        ask_all(
            judge_of(server, concurrency=1), [about(str(number)) for number in range(20)], attempts
        )
    statuses = [reply.status for reply in attempts]
    assert statuses == ["ok", *["refused"] * UNKNOWN_IN_A_ROW, "transport_error"]


@pytest.mark.slow
def test_a_harmless_request_without_an_answer_tells_nothing() -> None:
    def answerer(request: Received, number: int) -> Step:
        if is_control(request):
            return Step(status=503, body="busy")
        return error("computer says no") if number == 0 else GOOD

    attempts: list[JudgeReply] = []
    with StubServer(answerer).running() as server:
        (reply,) = ask_all(judge_of(server), [EXPLAIN], attempts)
    assert [one.status for one in attempts] == ["transport_error", "ok"]
    assert reply.status == "ok"


def test_a_request_of_its_own_fault_is_not_repeated_and_keeps_the_servers_words() -> None:
    words = "This model's maximum context length is 4096 tokens."
    with StubServer(lambda *_: error(words)).running() as server:
        (reply,) = ask_all(judge_of(server), [EXPLAIN])
    assert reply.status == "too_long"
    limit = "prompt and judge.max_tokens = 512 exceed the served context"
    assert reply.error == f"400: {words} ({limit})"
    assert len(server.received) == 1


def test_thinking_between_a_models_own_marks_is_known_by_the_config() -> None:
    draft = {"explanation": "an idea given up", "interpretable": True, "confidence": 0.1}
    step = Step(f"((plan)){json.dumps(draft)} but", finish_reason="stop")
    with StubServer(lambda *_: step).running() as server:
        marked = judge_of(server, thinking_markers=(("((plan))", "((/plan))"),))
        (reply,) = ask_all(marked, [EXPLAIN])
    assert (reply.status, reply.error) == ("parse_error", "the thinking never ended")
