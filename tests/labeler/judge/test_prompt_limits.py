"""Prompts stay within their limits by clear rules, and keep the frame's token far from the task."""

from __future__ import annotations

import asyncio
import json

import pytest
from judge_subjects import OPTIONS, refusals, subject, window

from labeler.judge.base import CategoryOption, Example, JudgeRequest, ShownExample
from labeler.judge.prompt_limits import by_turns, cut, estimated_tokens, fitting, strongest_first
from labeler.judge.prompts import (
    EXPLAIN_TEXTS,
    behaviour_request,
    categorize_request,
    detect_request,
    explain_request,
    fuzz_request,
    tokens_of,
)
from labeler.judge.scripted import ScriptedJudge
from taxonomy.tree import seed_taxonomy

LONG = "some words that go on and on, " * 30


def windows(n: int, text: str = LONG) -> list[Example]:
    kinds = ("top", "quantile", "negative", "other_model")
    return [
        window(f"{text} <<fires>> {number}", kind=kind, activation=float(number + 1))
        for kind in kinds
        for number in range(n)
    ]


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("The quick brown fox jumps over the lazy dog.", 9, 12),
        ("1234567890", 10, 10),
        ("\u732b\u304c\u597d\u304d\u3067\u3059", 6, 12),
        ("", 0, 0),
    ],
)
def test_tokens_are_estimated_alike_everywhere(text: str, low: int, high: int) -> None:
    assert low <= estimated_tokens(text) <= high


def test_texts_come_by_turns_of_their_kinds() -> None:
    kinds = [each.kind for each in by_turns(windows(2))]
    assert kinds == [
        "top", "quantile", "negative", "top", "quantile", "other_model", "negative", "other_model",
    ]  # fmt: skip


def test_only_firing_texts_are_strongest_first() -> None:
    peaks = [each.peak for each in strongest_first(windows(2))]
    assert peaks == [2.0, 2.0, 1.0, 1.0]


def test_a_long_text_is_cut_around_its_strongest_token() -> None:
    (long,) = windows(1)[:1]
    shown = cut(long, 10)
    assert len(shown.tokens) == len(shown.roles) == len(shown.activations) == 10
    assert shown.peak == long.peak
    assert cut(shown, 10) is shown


def test_one_text_is_shown_whatever_the_room() -> None:
    texts = windows(2)
    assert fitting(texts, lambda _: 10, 5) == texts[:1]
    assert fitting(texts, lambda _: 10, 25) == texts[:2]


@pytest.mark.parametrize("limit", [600, 1000, 2500])
def test_an_explain_prompt_stays_within_its_limit(limit: int) -> None:
    request = explain_request(subject(windows(8)), limit=limit)
    assert tokens_of(request) <= limit
    assert "[t1]" in request.messages[1].content


def test_an_explain_prompt_has_a_largest_number_of_texts() -> None:
    request = explain_request(subject(windows(8, "short")))
    assert request.messages[1].content.count("\n[") == EXPLAIN_TEXTS


def seed_options() -> list[CategoryOption]:
    taxonomy = seed_taxonomy()
    return [
        CategoryOption(
            leaf.slug, leaf.name, leaf.parent, leaf.definition, leaf.include_when, leaf.exclude_when
        )
        for leaf in taxonomy.leaves()
    ]


def test_all_categories_of_the_seed_fit_in_a_prompt_with_their_definitions() -> None:
    options = seed_options()
    request = categorize_request(subject(windows(8)), "e" * 300, options)
    assert tokens_of(request) <= 1500
    user = request.messages[1].content
    assert all(f"- {option.slug}: {option.definition}" in user for option in options)
    assert "Not:" not in user
    assert user.count("\n[") >= 1


def test_a_shortlist_has_the_lines_that_say_what_does_not_belong() -> None:
    options = seed_options()
    further = [option.slug for option in options[8:]]
    request = categorize_request(subject(windows(8)), "e" * 300, options[:8], further=further)
    assert tokens_of(request) <= 1500
    assert request.messages[1].content.count(" Not: ") == 8


def requests() -> list[JudgeRequest]:
    shown = [ShownExample("a", window("<<sorry>>"), frozenset({3}))]
    described = [CategoryOption("safety", "Safety", None, "", behaviour="It refuses.")]
    return [
        explain_request(subject(refusals())),
        categorize_request(subject(refusals()), "apologies", OPTIONS),
        detect_request("apologies", shown),
        fuzz_request("apologies", shown),
        behaviour_request([("user", "hello")], "no", described),
    ]


@pytest.mark.parametrize("request_", requests(), ids=lambda each: each.stage)
def test_the_token_is_far_from_the_task(request_: JudgeRequest) -> None:
    system, user = (message.content for message in request_.messages)
    assert request_.token is not None
    assert request_.token not in system
    assert user.count(request_.token) == 2
    task = user.rsplit(request_.token, 1)[1]
    assert len(task) > 160
    assert "Answer with one JSON object" in task


def test_an_answer_with_the_token_is_wrong() -> None:
    request = explain_request(subject(refusals()))
    answer = {"explanation": "apologies", "interpretable": True, "confidence": 0.9}
    assert asyncio.run(ScriptedJudge(lambda _: answer).ask(request)).status == "ok"
    leaking = answer | {"explanation": f"Texts with {str(request.token).upper()}"}
    reply = asyncio.run(ScriptedJudge(lambda _: leaking).ask(request))
    assert reply.status == "parse_error"
    assert reply.error == "the token of the marker lines is in the answer"
    assert json.loads(str(reply.raw)) == leaking


@pytest.mark.parametrize(
    ("answer", "outcome", "n"),
    [
        ({"categories": [{"category": "none", "confidence": 1}], "outcome": "assigned"}, "none", 0),
        ({"categories": [], "outcome": "see_all"}, "see_all", 0),
        ({"categories": [{"category": "see_all", "confidence": 1}], "outcome": "assigned"},
         "see_all", 0),
        ({"categories": [{"category": "safety", "confidence": 1},
                         {"category": "none", "confidence": 0.1}], "outcome": "assigned"},
         "assigned", 1),
    ],
)  # fmt: skip
def test_none_and_see_all_may_stand_in_a_categorys_place(
    answer: dict[str, object], outcome: str, n: int
) -> None:
    request = categorize_request(subject(refusals()), "x", OPTIONS, further=["science"])
    parsed = asyncio.run(ScriptedJudge(lambda _: answer).ask(request)).parsed
    assert parsed is not None
    assert (parsed["outcome"], len(parsed["categories"])) == (outcome, n)


def test_who_sees_all_cannot_ask_to_see_all() -> None:
    request = categorize_request(subject(refusals()), "x", OPTIONS)
    answer = {"categories": [], "outcome": "see_all"}
    reply = asyncio.run(ScriptedJudge(lambda _: answer).ask(request))
    assert (reply.status, reply.error) == ("parse_error", "'see_all' is none of the choices")
