"""Requests that end on their own, and servers with wishes, from `label` to the report."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from stub_judge import answer
from stub_server import Received, Step, StubServer
from test_batch import judged, shared, study
from tiny_study import TinyStudy

from labeler.cli.main import run

__all__ = ["shared", "study"]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache"), pytest.mark.timeout(900)]

TOO_LONG = "This model's maximum context length is 3000 tokens. However, you requested 3311 tokens."
FILTERED = "The response was filtered due to the prompt triggering the content management policy."
ENDED = """
    SELECT c.stage, c.status, c.error, count(*) FROM judge_call c JOIN judge j ON j.id = c.judge_id
    WHERE j.name = 'stub' AND c.status IN ('too_long', 'refused') GROUP BY 1, 2, 3 ORDER BY 1, 2
"""
TOO_LONG_WORDS = f"400: {TOO_LONG} (prompt and judge.max_tokens = 512 exceed the served context)"
COVERAGE = """
    SELECT side, isolated, labelled, assigned, "none", uninterpretable, error, too_long, refused,
           unlabelled
    FROM v_coverage ORDER BY side DESC
"""
LABELS = """
    SELECT e.side, e.latent_id, e.outcome, coalesce(x.text, '') FROM effective_label e
    LEFT JOIN explanation x ON x.id = e.explanation_id ORDER BY 1, 2
"""
PARAMETERS = "SELECT parameters FROM judge_parameters p JOIN judge j ON j.id = p.judge_id"
STATUSES = """
    SELECT c.stage, c.status, count(*) FROM judge_call c JOIN judge j ON j.id = c.judge_id
    WHERE j.name = 'stub' GROUP BY 1, 2 ORDER BY 1, 2
"""


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query))]
    finally:
        engine.dispose()


def refusal(message: str, status: int = 400, **keys: str) -> Step:
    return Step(status=status, body=json.dumps({"error": {"message": message, **keys}}))


def draw(request: Received) -> int:
    """A number drawn by the question, so that it meets the same again."""
    words = json.dumps(request.body["messages"], sort_keys=True)
    return int(hashlib.sha256(words.encode()).hexdigest(), 16)


def stage_of(request: Received) -> str:
    return str(request.body["response_format"]["json_schema"]["name"])


class SomeEnd:
    """Answers by rule, but every few explanations and categorisations end on their own."""

    def __call__(self, request: Received, number: int) -> Step:
        kind = draw(request) // 7 % 8
        if kind == 0:
            return Step(status=400, body=json.dumps({"object": "error", "message": TOO_LONG}))
        if kind == 1:
            return refusal(FILTERED, code="content_filter")
        if kind == 2 and stage_of(request) == "categorize":
            return Step("I'm sorry, but I can't help with that.")
        return Step(json.dumps(answer(request)))


def test_requests_that_end_on_their_own_are_counted_by_side_and_never_asked_again(
    shared: tuple[TinyStudy, str], capsys: pytest.CaptureFixture[str]
) -> None:
    study, url = shared
    with StubServer(SomeEnd()).running() as server:
        asked = judged(study, server, url)
        assert run(["label", str(asked.path)]) == 0
        said = capsys.readouterr().err
        assert run(["categorize", str(asked.path)]) == 0
        categorized = capsys.readouterr().err
        before = len(server.received)
        # Another key of the stage lets both go through all latents again.
        asked = asked.with_tables(scores={"examples": 30})
        for stage in ("label", "categorize"):
            assert run([stage, str(asked.path)]) == 0
        assert len(server.received) == before
        assert run(["report", str(asked.path)]) == 0
        assert run(["status", str(asked.path)]) == 0
    shown = capsys.readouterr().out
    ended = rows(url, ENDED)
    assert {(stage, status) for stage, status, _, _ in ended} == {
        ("explain", "too_long"), ("explain", "refused"),
        ("categorize", "too_long"), ("categorize", "refused"),
    }  # fmt: skip
    words = {error for _, _, error, _ in ended}
    assert words == {TOO_LONG_WORDS, f"400: {FILTERED}", "the model refused"}
    coverage = {row[0]: row[1:] for row in rows(url, COVERAGE)}
    for side, counts in coverage.items():
        assert counts[0] == sum(counts[2:]), side
        assert counts[1] == counts[2] + counts[3]
    labels = rows(url, LABELS)
    by_side = {
        name: [sum(row[0] == side and row[2] == name for row in labels) for side in coverage]
        for name in ("too_long", "refused")
    }
    assert all(sum(counts) for counts in by_side.values())
    for name, title in (("too_long", "too long"), ("refused", "refused")):
        target, reference = by_side[name]
        assert f"{title}: {target} target and {reference} reference latents" in categorized
        assert f"{title}: " in said
    assert f"{by_side['too_long'][0]} too long, {by_side['refused'][0]} refused, " in shown
    explained = [row[3] for row in labels if row[2] == "too_long" and "No explanation" in row[3]]
    assert all(row == f"No explanation: too long: {TOO_LONG_WORDS}" for row in explained)
    report = asked.folder / "report"
    for page in ("index.html", "category_change.md"):
        found = (report / page).read_text(encoding="utf-8")
        assert "Too long for the judge" in found
        assert "Refused by the judge" in found


def test_a_study_of_requests_that_all_end_stops_and_says_so(
    study: TinyStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    with StubServer(lambda *_: refusal(TOO_LONG)).running() as server:
        asked = judged(study, server)
        assert run(["label", str(asked.path)]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert "too_long: 400: This model's maximum context length" in lines[-1]
    assert "change judge.max_tokens or judge.model" in lines[-1]


def test_what_a_faulty_server_refused_is_asked_again_once_it_answers(study: TinyStudy) -> None:
    is_faulty = True

    def answerer(request: Received, number: int) -> Step:
        return refusal(TOO_LONG) if is_faulty else Step(json.dumps(answer(request)))

    with StubServer(answerer).running() as server:
        asked = judged(study, server)
        assert run(["label", str(asked.path)]) == 1
        is_faulty = False
        assert run(["label", str(asked.path)]) == 0
    assert [row[7:9] for row in rows(f"sqlite:///{asked.database}", COVERAGE)] == [(0, 0), (0, 0)]


def test_an_unknown_refusal_of_the_first_request_stops_nothing(
    study: TinyStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    first: list[str] = []

    def answerer(request: Received, number: int) -> Step:
        words = json.dumps(request.body["messages"])
        first.extend([words] if not first else [])
        if words == first[0]:
            return refusal("computer says no", 422)
        return Step(json.dumps(answer(request)))

    with StubServer(answerer).running() as server:
        asked = judged(study, server, concurrency=1)
        assert run(["label", str(asked.path)]) == 0
        assert "refused: " in capsys.readouterr().err
        assert run(["categorize", str(asked.path)]) == 0
    assert rows(asked.url, ENDED) == [("explain", "refused", "422: computer says no", 1)]
    assert sum(row[8] for row in rows(asked.url, COVERAGE)) == 1


@pytest.mark.parametrize(
    ("message", "known"),
    [
        (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead.",
            {"max_tokens_key": "max_completion_tokens", "sends_temperature": True},
        ),
        (
            "Unsupported value: 'temperature' does not support 0 with this model. Only the default "
            "(1) value is supported.",
            {"max_tokens_key": "max_tokens", "sends_temperature": False},
        ),
    ],
)
def test_a_servers_wishes_are_found_out_once_and_kept(
    shared: tuple[TinyStudy, str], message: str, known: dict[str, Any]
) -> None:
    study, url = shared
    word = "max_tokens" if "max_tokens" in message else "temperature"

    def answerer(request: Received, number: int) -> Step:
        return refusal(message) if word in request.body else Step(json.dumps(answer(request)))

    with StubServer(answerer).running() as server:
        asked = judged(study, server, url)
        assert run(["label", str(asked.path)]) == 0
        assert run(["categorize", str(asked.path)]) == 0
        n_refused = sum(word in one.body for one in server.received)
    assert n_refused == 1
    statuses = {(stage, status): n for stage, status, n in rows(url, STATUSES)}
    assert statuses.pop(("explain", "transport_error")) == 1
    assert {status for _, status in statuses} == {"ok"}
    ((found,),) = rows(url, PARAMETERS)
    kept = json.loads(found) if isinstance(found, str) else found
    assert kept == known | {"json_schema": True}


def test_a_judge_without_schemas_is_asked_once(
    study: TinyStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    step = refusal("response_format json_schema is not supported by this model")
    with StubServer(lambda *_: step).running() as server:
        asked = judged(study, server, concurrency=8)
        assert run(["label", str(asked.path)]) == 1
        assert len(server.received) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "400: response_format json_schema is not supported by this model" in last
    assert "use one that constrains JSON" in last


def in_thought(content: str) -> dict[str, Any]:
    return {"content": f"<think>perhaps {content}, but wait"}


def in_field(content: str) -> dict[str, Any]:
    return {"content": None, "reasoning_content": f"perhaps {content}, but wait"}


def in_brackets(content: str) -> dict[str, Any]:
    return {"content": f"[THINK]perhaps {content}"}


def in_channel(content: str) -> dict[str, Any]:
    return {"content": f"<|channel|>analysis<|message|>perhaps {content}"}


TORSOS = (in_thought, in_field, in_brackets, in_channel)


@pytest.mark.parametrize("stage", ["label", "categorize"])
def test_a_draft_never_becomes_a_label(
    study: TinyStudy, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Some answers end in the midst of thinking, in every way that models have."""
    name = "explain" if stage == "label" else "categorize"
    met: dict[str, str] = {}

    def answerer(request: Received, number: int) -> Step:
        content = json.dumps(answer(request))
        kind = draw(request) // 11 % 32
        if stage_of(request) != name or kind >= len(TORSOS):
            return Step(content)
        met[json.dumps(request.body["messages"])] = TORSOS[kind].__name__
        reason = "length" if draw(request) // 1000 % 2 else "stop"
        return Step(message=TORSOS[kind](content), finish_reason=reason)

    with StubServer(answerer).running() as server:
        asked = judged(study, server)
        assert run(["label", str(asked.path)]) == 0
        assert run(["categorize", str(asked.path)]) == 0
    assert len(met) > 1
    usable = {"ok": 0, "truncated": 3, "parse_error": 3}
    counts = {status: n for at, status, n in rows(asked.url, STATUSES) if at == name}
    assert sum(counts.get(status, 0) for status in usable if usable[status]) == 3 * len(met)
    assert "perhaps" not in json.dumps(rows(asked.url, "SELECT text FROM explanation"))
    if stage == "categorize":
        errors = sum(row[6] for row in rows(asked.url, COVERAGE))
        assert f"{errors} error" in capsys.readouterr().err


def by_tool(content: str) -> dict[str, Any]:
    function = {"name": "reply", "arguments": content}
    return {"content": None, "tool_calls": [{"id": "a", "type": "function", "function": function}]}


def by_parts(content: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": content}]}


def by_field(content: str) -> dict[str, Any]:
    return {"content": None, "reasoning_content": content}


def after_thought(content: str) -> dict[str, Any]:
    return {"content": f"<think>{content.replace('fires', 'draft')}</think>```json\n{content}\n```"}


@pytest.mark.parametrize("way", [by_tool, by_parts, by_field, after_thought])
def test_an_answer_is_read_wherever_a_server_puts_it(study: TinyStudy, way: Any) -> None:
    def answerer(request: Received, number: int) -> Step:
        return Step(message=way(json.dumps(answer(request))))

    with StubServer(answerer).running() as server:
        asked = judged(study, server)
        assert run(["label", str(asked.path)]) == 0
        assert run(["categorize", str(asked.path)]) == 0
    assert {status for _, status, _ in rows(asked.url, STATUSES)} == {"ok"}
    texts = rows(
        asked.url,
        "SELECT text FROM explanation x JOIN judge j ON j.id = x.judge_id WHERE j.name = 'stub'",
    )
    assert texts
    assert all(row[0].startswith("fires on pattern") for row in texts if row[0][:3] != "Too")


def test_scores_name_the_calls_that_ended_on_their_own(
    study: TinyStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    def answerer(request: Received, number: int) -> Step:
        if stage_of(request) in ("detect", "fuzz") and draw(request) // 7 % 3 == 0:
            return refusal(FILTERED, code="content_filter")
        return Step(json.dumps(answer(request)))

    with StubServer(answerer).running() as server:
        asked = judged(study, server).with_tables(
            judge={"kind": "openai", "base_url": server.url, "model": "stub"},
            scores={"methods": ["detection"], "judges": ["openai"], "per_call": 2},
        )
        assert run(["label", str(asked.path)]) == 0
        before = len(server.received)
        again = asked.with_tables(scores={"shuffled": False})
        assert run(["label", str(again.path)]) == 0
        assert len(server.received) == before
    assert "calls refused" in capsys.readouterr().err
    reasons = rows(asked.url, "SELECT reason FROM explanation_score WHERE reason IS NOT NULL")
    assert any(f"(refused: 400: {FILTERED})" in row[0] for row in reasons)
