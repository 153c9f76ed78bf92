"""Thinking is told from words, and a JSON object is found in bounded time, whatever was said."""

from __future__ import annotations

import json
import time

import pytest

from labeler.judge.parsing import (
    LONGEST_TEXT,
    MARKERS,
    MOST_FAILED,
    AnswerError,
    json_objects,
    split_thinking,
    whole_object,
)

ANSWER = '{"explanation": "replies that decline", "interpretable": true, "confidence": 0.7}'
DRAFT = '{"explanation": "an idea given up", "interpretable": true, "confidence": 0.2}'
OWN = (("<<plan>>", "<</plan>>"),)


def channel(name: str, body: str, end: str = "<|end|>") -> str:
    return f"<|channel|>{name}<|message|>{body}{end}"


@pytest.mark.parametrize(("begin", "end"), [*MARKERS, *OWN])
def test_thinking_of_every_family_is_no_words(begin: str, end: str) -> None:
    closed = split_thinking(f"{begin}maybe {DRAFT}{end}\n{ANSWER}", OWN)
    assert (closed.words, closed.is_open) == (ANSWER, False)
    assert DRAFT in closed.thinking
    opened = split_thinking(f"{begin}maybe {DRAFT}, but wait", OWN)
    assert (opened.words, opened.is_open) == ("", True)
    continued = split_thinking(f"maybe {DRAFT}{end}{ANSWER}", OWN)
    assert (continued.words, continued.is_open) == (ANSWER, False)


@pytest.mark.parametrize(
    ("text", "words", "is_open"),
    [
        (
            channel("analysis", DRAFT) + "<|start|>assistant" + channel("final", ANSWER),
            ANSWER,
            False,
        ),
        (
            channel("analysis", DRAFT, "")
            + "<|start|>assistant"
            + channel("final <|constrain|>json", ANSWER, "<|return|>"),
            ANSWER,
            False,
        ),
        (channel("commentary", DRAFT) + channel("final", ANSWER, ""), ANSWER, False),
        (channel("analysis", DRAFT, " but wait"), "", True),
        (channel("analysis", DRAFT), "", False),
        (f"analysisWe weigh {DRAFT}.assistantfinal{ANSWER}", ANSWER, False),
        (f"analysisWe weigh {DRAFT}, but", "", True),
        (f"<THINK>{DRAFT}</Think>{ANSWER}", ANSWER, False),
        (f"<think>a<think>b</think>{DRAFT}</think>{ANSWER}", ANSWER, False),
        (f"<think>a</think>{DRAFT}<think>b</think>{ANSWER}", ANSWER, False),
        (f"<think>[/THINK]{DRAFT}</think>{ANSWER}", ANSWER, False),
        (f"<think>a<think>b</think>{DRAFT} but wait", "", True),
        (f"<think>a<think>b</think>{ANSWER}", ANSWER, False),
        (f"<think type='long'>{DRAFT} but wait", "", True),
        (f"<think type='long'>{DRAFT}</think>{ANSWER}", ANSWER, False),
        (f"analysis\n{DRAFT} but wait", "", True),
        (f"analysis{DRAFT} but wait", "", True),
        (f"analysis of the texts: {ANSWER}", f"analysis of the texts: {ANSWER}", False),
    ],
)  # fmt: skip
def test_thinking_in_channels_and_in_unusual_places(text: str, words: str, is_open: bool) -> None:
    said = split_thinking(text)
    assert (said.words, said.is_open) == (words, is_open)


@pytest.mark.parametrize("before", ["", "<think>hm</think>\n"])
@pytest.mark.parametrize("named", ["<think>", "</think>", "[THINK] and [/THINK]"])
def test_an_answer_about_markers_is_an_answer(before: str, named: str) -> None:
    answer = json.dumps({"explanation": f"fires on {named}"})
    assert split_thinking(before + answer).words == answer
    assert split_thinking(f"{before}```json\n{answer}\n```").words == f"```json\n{answer}\n```"


@pytest.mark.parametrize(
    ("text", "is_whole"),
    [
        (ANSWER, True),
        (f"\n ```json\n{ANSWER}\n```\n", True),
        (f"```\n{ANSWER}```", True),
        (f"{ANSWER} {ANSWER}", False),
        (f"so {ANSWER}", False),
        (f"{ANSWER}.", False),
        ("[1]", False),
        ("", False),
        ("```", False),
        ('{"a": 1, "a": 2}', False),
    ],
)
def test_only_an_object_alone_is_a_whole_one(text: str, is_whole: bool) -> None:
    assert (whole_object(text) is not None) is is_whole


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": ' + "7" * 5000 + "}", "a number is too long"),
        ('{"a": 99999999999999999999}', "an integer beyond 64 bits"),
        ('{"a": Infinity}', "Infinity is no JSON number"),
        ('{"a": -Infinity}', "-Infinity is no JSON number"),
        ('{"a": NaN}', "NaN is no JSON number"),
        ('{"a": 1e999}', "a number that is not finite"),
        ('{"a":' * 90 + "1" + "}" * 90, "nested deeper than 64 levels"),
        ('{"a":' * 20_000, "an object is nested too deeply"),
        ('{"a": 1', "an object is not whole"),
        ("none at all", "no JSON object in the answer"),
    ],
)
def test_what_cannot_be_an_answer_is_named(text: str, words: str) -> None:
    with pytest.raises(AnswerError, match=words):
        json_objects(text)


HOSTILE = {
    "nested": '{"explanation":' * 26_000,
    "braces": "{" * LONGEST_TEXT,
    "keys": '{"' * (LONGEST_TEXT // 2),
    "empty": "{}" * (LONGEST_TEXT // 2),
    "lists": '{"k":[' + ('1,' * 6000 + '{"k":[') * 30,
    "strings": '{"k":"' + "x" * 390_000,
    "spaces": ("{" + " " * 1000) * 390,
    "openings": "<think>" * 57_000,
    "pairs": "a<think></think>" * 24_000,
    "endings": 'a</think>{"k":"' * 26_000,
    "channels": "<|channel|>a<|message|>" * 17_000,
    "half channels": ("<|channel|>a" + " " * 500) * 700,
    "fences": "```" + (" " * 1000 + "a") * 390 + "```",
    "digits": '{"k":' + "1" * 390_000,
}  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_the_longest_text_is_given_up_in_a_moment(text: str) -> None:
    assert len(text) <= LONGEST_TEXT
    started = time.perf_counter()
    with pytest.raises(AnswerError):
        json_objects(split_thinking(text).words)
    assert time.perf_counter() - started < 2


def test_time_grows_with_the_text_and_no_faster() -> None:
    def seconds(count: int) -> float:
        text, best = '{"explanation":' * count, float("inf")
        for _ in range(5):
            started = time.perf_counter()
            with pytest.raises(AnswerError):
                json_objects(split_thinking(text).words)
            best = min(best, time.perf_counter() - started)
        return best

    assert seconds(24_000) < 16 * seconds(6_000)


def test_a_text_beyond_all_answers_is_not_looked_at() -> None:
    with pytest.raises(AnswerError, match="1,500,000 characters, more than 400,000 are not read"):
        split_thinking('{"explanation":' * 100_000)


def test_prose_with_many_braces_keeps_its_answer() -> None:
    prose = "set {x} and {'y'} " * 1000 + '{"z" ' * (MOST_FAILED - 1)
    assert json_objects(prose + ANSWER) == [json.loads(ANSWER)]
