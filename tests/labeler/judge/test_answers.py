from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_subjects import OPTIONS, refusals, subject, window

from labeler.judge.answers import (
    LONGEST_TEXT,
    MARKERS,
    MOST_FAILED,
    AnswerError,
    check_answer,
    is_refusal,
    json_objects,
    parse_answer,
    split_thinking,
    whole_object,
)
from labeler.judge.base import Example, JudgeReply, JudgeRequest, ShownExample
from labeler.judge.prompts import (
    categorize_request,
    detect_request,
    explain_request,
    fuzz_request,
    merge_request,
    name_request,
)
from taxonomy.induction import NamingTask, PairTask
from taxonomy.tree import CategoryName

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


EXPLAIN = explain_request(subject(refusals()))
CATEGORIZE = categorize_request(subject(refusals()), "x", OPTIONS)
EXAMPLES = [ShownExample(key, window("a <<text>>")) for key in "ab"]
DETECT = detect_request("x", EXAMPLES)
NAME = CategoryName("Refusals", "replies that decline")
REQUESTS = (
    EXPLAIN,
    CATEGORIZE,
    DETECT,
    fuzz_request("x", EXAMPLES),
    name_request(NamingTask(2, 0, 0, 1, ("a",), ())),
    merge_request(PairTask(NAME, NAME, (), (), 0.5)),
)


def chosen(slug: str, confidence: float = 0.5) -> dict[str, object]:
    return {"category": slug, "confidence": confidence, "quote": ""}


def test_further_keys_are_dropped() -> None:
    answer = {"reasoning": "long", "explanation": "x", "interpretable": True, "confidence": 1}
    assert check_answer(EXPLAIN, answer) == {
        "explanation": "x",
        "interpretable": True,
        "confidence": 1.0,
    }


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"outcome": "maybe", "categories": []}, "outcome: "),
        ({"outcome": "assigned", "categories": [chosen("Safety")]}, "'Safety' is none of"),
        ({"outcome": "assigned", "categories": [chosen("safety", -0.1)]}, "confidence"),
        ({"outcome": "assigned", "categories": ["safety"]}, "categories.0"),
        (
            {"outcome": "assigned", "categories": [chosen(str(n)) for n in range(4)]},
            "at most 3",
        ),
    ],
)
def test_a_wrong_categorisation_is_no_answer(answer: dict[str, object], reason: str) -> None:
    with pytest.raises(AnswerError, match=reason):
        check_answer(CATEGORIZE, answer)


@pytest.mark.parametrize(
    ("outcome", "slugs", "settled", "kept"),
    [
        ("assigned", ["safety", "safety"], "assigned", ["safety"]),
        ("assigned", ["safety", "cooking", "safety"], "assigned", ["safety", "cooking"]),
        ("assigned", [], "none", []),
        ("none", ["safety"], "none", []),
        ("uninterpretable", ["safety", "lists"], "uninterpretable", []),
    ],
)
def test_a_categorisation_that_contradicts_itself_is_settled(
    outcome: str, slugs: list[str], settled: str, kept: list[str]
) -> None:
    categories = [chosen(slug, 0.9 - at / 10) for at, slug in enumerate(slugs)]
    answer = check_answer(CATEGORIZE, {"outcome": outcome, "categories": categories})
    assert answer["outcome"] == settled
    assert answer["categories"] == [categories[slugs.index(slug)] for slug in kept]


def test_an_explanation_without_words_has_no_meaning() -> None:
    answer = {"explanation": " \n", "interpretable": True, "confidence": 0.5}
    assert check_answer(EXPLAIN, answer) == answer | {"interpretable": False}


def instances(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Whatever a schema that is sent to judges allows."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema["type"]
    if kind == "object":
        assert set(schema["required"]) == set(schema["properties"])
        return st.fixed_dictionaries(
            {key: instances(inner) for key, inner in schema["properties"].items()}
        )
    if kind == "array":
        return st.lists(instances(schema["items"]), max_size=schema["maxItems"])
    if kind == "number":
        least, most = schema["minimum"], schema["maximum"]
        return st.integers(least, most) | st.floats(least, most)
    if kind == "string":
        return st.text(max_size=schema.get("maxLength", 400))
    assert kind == "boolean"
    return st.booleans()


@pytest.mark.parametrize("request_", REQUESTS, ids=[request.stage for request in REQUESTS])
@given(data=st.data())
def test_whatever_the_sent_schema_allows_is_an_answer(
    request_: JudgeRequest, data: st.DataObject
) -> None:
    said = data.draw(instances(request_.schema))
    text = json.dumps(said)
    answer = parse_answer(request_, text)
    assert answer == check_answer(request_, answer)
    assert set(answer) == set(said)


def test_answers_are_found_by_id_and_a_missing_one_stays_missing() -> None:
    answer = {"answers": {"b": True}}
    assert check_answer(DETECT, answer) == answer
    for wrong in ({"c": True}, {"a": "perhaps"}, {"a": None}, [True, False]):
        with pytest.raises(AnswerError):
            check_answer(DETECT, {"answers": wrong})


def test_an_id_with_two_answers_has_none() -> None:
    with pytest.raises(AnswerError, match="'a' is answered twice"):
        parse_answer(DETECT, '{"answers": {"a": true, "b": false, "a": false}}')
    assert parse_answer(DETECT, '{"answers": {"a": true, "a": true}}') == {"answers": {"a": True}}


def test_the_schema_names_every_id_and_allows_no_other() -> None:
    answers = DETECT.schema["properties"]["answers"]
    assert answers["required"] == ["a", "b"]
    assert answers["additionalProperties"] is False


def test_the_last_valid_object_counts() -> None:
    draft = {"explanation": "draft", "interpretable": True, "confidence": 0.1}
    final = draft | {"explanation": "final"}
    text = f'Say {{"a": 1}}, {json.dumps(draft)} or rather {json.dumps(final)} and {{"z": 2}}'
    assert parse_answer(EXPLAIN, text)["explanation"] == "final"


@given(st.text(max_size=200).filter(lambda text: "{" not in text))
def test_prose_without_an_object_is_never_an_answer(text: str) -> None:
    with pytest.raises(AnswerError, match="no JSON object"):
        parse_answer(EXPLAIN, text)


def test_deeply_nested_text_does_not_break_the_parser() -> None:
    with pytest.raises(AnswerError):
        parse_answer(EXPLAIN, '{"a":' * 20_000)
    with pytest.raises(AnswerError):
        parse_answer(EXPLAIN, "[" * 100_000)


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("I'm sorry, but I can't do that.", True),
        ("I cannot assist.", True),
        ("<think>hm</think> Sorry, no.", True),
        ("The latent fires on apologies.", False),
        ("", False),
    ],
)
def test_refusals_are_told_from_other_prose(text: str, refused: bool) -> None:
    assert is_refusal(text) is refused


def test_a_reply_has_an_answer_exactly_where_it_is_ok() -> None:
    with pytest.raises(ValueError, match="parsed answer"):
        JudgeReply("ok")
    with pytest.raises(ValueError, match="parsed answer"):
        JudgeReply("parse_error", parsed={"a": 1})


def test_a_window_has_one_role_and_one_activation_for_each_token() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        Example("top", "explain", ("a", "b"), ("user",), (1.0, 2.0))
