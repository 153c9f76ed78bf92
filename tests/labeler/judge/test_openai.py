from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest
from stub_server import Received, Step, StubServer, serving

from labeler.errors import UsageError, WorkError
from labeler.judge.base import (
    CategoryOption,
    Example,
    JudgeReply,
    JudgeRequest,
    LatentRecord,
)
from labeler.judge.factory import make_judge
from labeler.judge.openai import OpenAiJudge
from labeler.judge.prompts import categorize_request, explain_request
from labeler.study.judge_config import JudgeSection

EXPLAINED = {"explanation": "apologies", "interpretable": True, "confidence": 0.8}
GOOD = Step(json.dumps(EXPLAINED))


def subject() -> LatentRecord:
    window = Example("top", "explain", ("I", "'m", " sorry"), ("assistant",) * 3, (0.0, 0.0, 2.0))
    return LatentRecord(1, "cc", 7, (window,))


class Sleeps:
    """Sleeps by turning a clock on."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        if seconds > 0:
            self.seconds.append(seconds)
        await asyncio.sleep(0)

    def clock(self) -> float:
        return sum(self.seconds)


def ask(
    server: StubServer,
    request: JudgeRequest,
    sleeps: Sleeps | None = None,
    attempts: list[JudgeReply] | None = None,
    **section: object,
) -> JudgeReply:
    """Ask once over HTTP and close the connections."""
    seen = attempts if attempts is not None else []
    time = sleeps if sleeps is not None else Sleeps()

    async def note(reply: JudgeReply) -> None:
        seen.append(reply)

    async def work() -> JudgeReply:
        judge = OpenAiJudge.from_section(
            JudgeSection(kind="openai", base_url=server.url, model="m", **section),  # type: ignore[arg-type]
            sleep=time,
            clock=time.clock,
        )
        try:
            return await judge.ask(request, note)
        finally:
            await judge.aclose()

    return asyncio.run(work())


def statuses(attempts: Sequence[JudgeReply]) -> list[str]:
    return [reply.status for reply in attempts]


def test_answer_usage_and_request_body() -> None:
    with serving(GOOD) as server:
        reply = ask(server, explain_request(subject()), temperature=0.5, max_tokens=64)
    assert reply.parsed == EXPLAINED
    assert (reply.prompt_tokens, reply.completion_tokens) == (11, 7)
    assert reply.latency_s is not None
    assert reply.latency_s > 0
    body = server.received[0].body
    assert server.received[0].path == "/v1/chat/completions"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.5, 64)
    assert body["response_format"]["type"] == "json_schema"
    assert body["response_format"]["json_schema"]["schema"]["additionalProperties"] is False
    assert [message["role"] for message in body["messages"]] == ["system", "user"]


def test_overload_is_retried_after_the_time_the_server_names() -> None:
    sleeps, attempts = Sleeps(), []
    busy = Step(status=429, body='{"error": {"message": "slow"}}', headers={"Retry-After": "7"})
    with serving(busy, GOOD) as server:
        reply = ask(server, explain_request(subject()), sleeps, attempts)
    assert reply.status == "ok"
    assert sleeps.seconds == [7.0]
    assert statuses(attempts) == ["transport_error", "ok"]
    assert attempts[0].error == "429: slow"


@pytest.mark.parametrize(
    "fault",
    [
        Step(status=500, body="boom"),
        Step(status=503, body='{"detail": "loading"}'),
        Step(reset=True),
        Step(body="<html>proxy</html>", headers={"content-type": "text/html"}),
        Step(body="{not json"),
        Step(body="[1, 2]"),
    ],
    ids=["500", "503", "reset", "html", "broken-json", "list"],
)
def test_transport_faults_are_retried_and_reported(fault: Step) -> None:
    attempts: list[JudgeReply] = []
    with serving(fault, GOOD) as server:
        reply = ask(server, explain_request(subject()), attempts=attempts)
    assert reply.status == "ok"
    assert statuses(attempts) == ["transport_error", "ok"]
    assert attempts[0].error


def test_tries_are_bounded_and_the_last_failure_is_returned() -> None:
    sleeps, attempts = Sleeps(), []
    with serving(Step(status=500, body="boom")) as server:
        reply = ask(server, explain_request(subject()), sleeps, attempts, max_attempts=3)
    assert reply.status == "transport_error"
    assert len(server.received) == len(attempts) == 3
    assert len(sleeps.seconds) == 2
    assert sleeps.seconds[1] > sleeps.seconds[0] > 0


def test_nobody_listens() -> None:
    with serving(GOOD) as server:
        pass
    attempts: list[JudgeReply] = []
    with pytest.raises(WorkError, match=r"nobody answers there \(cannot connect.*judge serve"):
        ask(server, explain_request(subject()), attempts=attempts, max_attempts=2)
    assert statuses(attempts) == ["transport_error"] * 2


def test_a_reply_that_drips_is_cut_by_the_total_timeout() -> None:
    slow = Step(json.dumps(EXPLAINED), drip=True, delay_s=0.02)
    with serving(slow, GOOD) as server:
        attempts: list[JudgeReply] = []
        reply = ask(server, explain_request(subject()), attempts=attempts, timeout_s=0.5)
    assert statuses(attempts) == ["transport_error", "ok"]
    assert reply.status == "ok"
    assert attempts[0].error == "no answer within 0.5 s"


@pytest.mark.parametrize(("status", "n_requests"), [(400, 2), (401, 1), (404, 1), (422, 2)])
def test_other_client_errors_stop_the_batch_with_the_servers_words(
    status: int, n_requests: int
) -> None:
    """Of what was sent a second, harmless request tells whether every one would be refused."""
    attempts: list[JudgeReply] = []
    fault = Step(status=status, body='{"error": {"message": "no such model m"}}')
    with serving(fault) as server, pytest.raises(WorkError, match=f"{status}: no such model m"):
        ask(server, explain_request(subject()), attempts=attempts)
    assert len(server.received) == n_requests
    assert statuses(attempts) == ["transport_error"]


@pytest.mark.parametrize(
    "step",
    [
        Step("no JSON at all"),
        Step('{"explanation": "x"}'),
        Step('{"explanation": "x", "interpretable": true, "confidence": 7}'),
        Step("[1]"),
        Step(None),
        Step(body='{"choices": []}'),
        Step(body='{"choices": [{"message": {"content": 123}}]}'),
        Step(body='{"choices": [{"message": "text"}], "usage": 3}'),
    ],
    ids=[
        "prose", "missing-keys", "range", "list", "null", "no-choices", "number",
        "no-message",
    ],
)  # fmt: skip
def test_unusable_answers_are_asked_again_a_few_times_and_keep_their_words(step: Step) -> None:
    attempts: list[JudgeReply] = []
    with serving(step) as server:
        reply = ask(server, explain_request(subject()), attempts=attempts)
    assert statuses(attempts) == ["parse_error"] * 3
    assert reply.parsed is None
    assert reply.error
    if step.content is not None:
        assert reply.raw == step.content


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"error": "busy"}', "no chat completion: it has no choices"),
        ('{"choices": []}', "no chat completion: it has choices that are empty"),
        ('{"choices": [{"text": "x"}]}', "its first choice has no message"),
        ('{"choices": [{"message": {"content": 123}}]}', "the message's content is 123, no text"),
        ('{"choices": [{"message": {"content": null}}]}', "the message's content is null"),
    ],
)
def test_what_is_no_chat_completion_is_named_and_kept(body: str, words: str) -> None:
    with serving(Step(body=body)) as server:
        reply = ask(server, explain_request(subject()))
    assert reply.status == "parse_error"
    assert words in str(reply.error)
    assert json.loads(str(reply.raw)) in (json.loads(body), {"content": None})


@pytest.mark.parametrize(
    ("explanation", "words"),
    [
        ("Die Latente feuert bei Entschuldigungen des Assistenten in Ablehnungen", "in German"),
        ("El latente se activa en disculpas del asistente cuando rechaza algo", "in Spanish"),
        ("Fires on apologies such as 'je suis vraiment désolé de ne pas pouvoir aider'", None),
        ("Ingredients in Italian recipes: pasta, risotto, parmigiano, olio, basilico", None),
        ("apologies", None),
    ],
)
def test_an_explanation_in_another_language_is_no_answer(
    explanation: str, words: str | None
) -> None:
    said = {"explanation": explanation, "interpretable": True, "confidence": 0.5}
    with serving(Step(json.dumps(said))) as server:
        reply = ask(server, explain_request(subject()))
    assert reply.status == ("ok" if words is None else "parse_error")
    assert words is None or f"{words}, not in English" in str(reply.error)
    assert reply.raw == json.dumps(said)


def test_a_category_that_was_not_offered_is_no_label() -> None:
    answer = {
        "outcome": "assigned",
        "categories": [{"category": "safty", "confidence": 1, "quote": ""}],
    }
    option = CategoryOption("safety", "Safety", None, "refusals")
    with serving(Step(json.dumps(answer))) as server:
        reply = ask(server, categorize_request(subject(), "apologies", [option]))
    assert reply.status == "parse_error"
    assert reply.error == "'safty' is none of the choices"


@pytest.mark.parametrize(
    "content",
    [
        f"```json\n{json.dumps(EXPLAINED)}\n```",
        f'<think>maybe {{"explanation": 1}}</think>{json.dumps(EXPLAINED)}',
        f"weighing things...</think>\n{json.dumps(EXPLAINED)}",
        f"Let me think {{about it}}. The answer is {json.dumps(EXPLAINED)} I hope.",
    ],
    ids=["fence", "think", "open-think", "prose"],
)
def test_thinking_fences_and_prose_around_the_answer_are_passed_over(content: str) -> None:
    with serving(Step(content)) as server:
        reply = ask(server, explain_request(subject()))
    assert reply.parsed == EXPLAINED
    assert reply.raw == content


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content"])
def test_an_answer_that_a_reasoning_parser_moved_is_found(key: str) -> None:
    with serving(Step(None, message={key: json.dumps(EXPLAINED)})) as server:
        assert ask(server, explain_request(subject())).parsed == EXPLAINED


def test_a_cut_answer_is_truncated_and_a_whole_one_is_not() -> None:
    cut = Step('{"explanation": "apolog', finish_reason="length")
    padded = Step(json.dumps(EXPLAINED) + "\n" * 50, finish_reason="length")
    with serving(cut) as server:
        assert ask(server, explain_request(subject())).status == "truncated"
    with serving(padded) as server:
        assert ask(server, explain_request(subject())).parsed == EXPLAINED


@pytest.mark.parametrize(
    "step",
    [
        Step(None, message={"refusal": "I will not"}),
        Step("I'm sorry, but I can't help with that."),
        Step("", finish_reason="content_filter"),
    ],
    ids=["field", "words", "filter"],
)
def test_a_refusal_is_recorded_as_one_and_not_repeated(step: Step) -> None:
    with serving(step) as server:
        reply = ask(server, explain_request(subject()))
    assert reply.status == "refused"
    assert len(server.received) == 1


def test_the_key_is_sent_and_appears_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-secret-1")

    def answer(request: Received, number: int) -> Step:
        shown = request.headers["authorization"]
        return Step(status=500, body=f'{{"error": {{"message": "bad key {shown}"}}}}')

    with StubServer(answer).running() as server:
        reply = ask(server, explain_request(subject()), api_key_env="JUDGE_KEY", max_attempts=1)
        identity = make_judge(
            JudgeSection(kind="openai", base_url=server.url, model="m", api_key_env="JUDGE_KEY")
        ).identity
    assert server.received[0].headers["authorization"] == "Bearer sk-secret-1"
    assert reply.error == "500: bad key Bearer ***"
    assert "secret" not in repr(identity)


def test_a_servers_words_are_one_line_without_controls() -> None:
    said = json.dumps({"error": {"message": "no key\nor\x1b[2J\r\nmodel"}})
    with (
        serving(Step(status=401, body=said)) as server,
        pytest.raises(WorkError, match=r"401: no key or.\[2J model$"),
    ):
        ask(server, explain_request(subject()))


def test_a_key_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    section = JudgeSection(
        kind="openai", base_url="http://127.0.0.1:1/v1", model="m", api_key_env="JUDGE_KEY"
    )
    with pytest.raises(UsageError, match=r"judge\.api_key_env: .*JUDGE_KEY is not set"):
        make_judge(section)


@pytest.mark.parametrize("key", ["base_url", "model"])
def test_a_missing_address_or_model_is_named(key: str) -> None:
    values = {"base_url": "http://127.0.0.1:1/v1", "model": "m"} | {key: None}
    with pytest.raises(UsageError, match=f"judge.{key}: missing"):
        make_judge(JudgeSection(kind="openai", **values))  # type: ignore[arg-type]


def test_a_closed_judge_opens_again() -> None:
    async def work(judge: OpenAiJudge) -> JudgeReply:
        try:
            return await judge.ask(explain_request(subject()))
        finally:
            await judge.aclose()

    with serving(GOOD) as server:
        section = JudgeSection(kind="openai", base_url=server.url, model="m")
        judge = OpenAiJudge.from_section(section)
        replies = [asyncio.run(work(judge)) for _ in range(2)]
    assert [reply.status for reply in replies] == ["ok", "ok"]
