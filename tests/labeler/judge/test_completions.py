"""What a chat completion says, wherever a server puts it: answer, thinking, refusal, torso."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from judge_subjects import OPTIONS, refusals, subject

from labeler.judge.base import JudgeReply, JudgeRequest
from labeler.judge.completions import read_completion
from labeler.judge.prompts import categorize_request, explain_request

EXPLAIN = explain_request(subject(refusals()))
CATEGORIZE = categorize_request(subject(refusals()), "replies that decline", OPTIONS)
SAID = {
    "explain": {"explanation": "replies that decline", "interpretable": True, "confidence": 0.7},
    "categorize": {
        "outcome": "assigned",
        "categories": [{"category": "safety", "confidence": 0.7, "quote": ""}],
    },
}
GIVEN_UP = {
    "explain": {"explanation": "an idea given up", "interpretable": True, "confidence": 0.2},
    "categorize": {"outcome": "none", "categories": []},
}
ANSWER, DRAFT = "ANSWER", "DRAFT"
"""Stand in a message for the stage's answer, and for one that the model gave up."""


def call(arguments: object) -> list[dict[str, Any]]:
    function = {"name": "reply", "arguments": arguments}
    return [{"id": "t0", "type": "function", "function": function}]


KINDS: dict[str, tuple[dict[str, Any], str, str]] = {
    "bare": ({"content": "ANSWER"}, "stop", "ok"),
    "padded and cut": ({"content": "ANSWER\n\n\n"}, "length", "ok"),
    "fenced": ({"content": "```json\nANSWER\n```"}, "stop", "ok"),
    "in prose": ({"content": "I would say ANSWER."}, "stop", "ok"),
    "in prose, cut": ({"content": "I would say DRAFT. On the other"}, "length", "truncated"),
    "torso": ({"content": '{"explanation": "replies th'}, "length", "truncated"),
    "thought, then said": ({"content": "<think>DRAFT?</think>ANSWER"}, "stop", "ok"),
    "thought in the prompt": ({"content": "DRAFT, no</think>ANSWER"}, "stop", "ok"),
    "bracketed thought": ({"content": "[THINK]DRAFT[/THINK]ANSWER"}, "stop", "ok"),
    "thought never ended, cut": ({"content": "<think>DRAFT, but"}, "length", "truncated"),
    "thought never ended": ({"content": "<think>DRAFT, but"}, "stop", "parse_error"),
    "thought that is whole": ({"content": "<think>DRAFT"}, "stop", "parse_error"),
    "brackets never ended": ({"content": "[THINK]DRAFT, but"}, "length", "truncated"),
    "said, then thought": ({"content": "DRAFT<think>no"}, "stop", "parse_error"),
    "own marks": ({"content": "<<plan>>DRAFT<</plan>>ANSWER"}, "stop", "ok"),
    "own marks never ended": ({"content": "<<plan>>DRAFT, but"}, "length", "truncated"),
    "channels": (
        {
            "content": "<|channel|>analysis<|message|>DRAFT<|end|><|start|>assistant"
            "<|channel|>final<|message|>ANSWER<|return|>"
        },
        "stop",
        "ok",
    ),
    "one channel": ({"content": "<|channel|>analysis<|message|>DRAFT"}, "length", "truncated"),
    "names of channels": ({"content": "analysisSo DRAFT.assistantfinalANSWER"}, "stop", "ok"),
    "field whole": ({"content": None, "reasoning_content": "ANSWER"}, "stop", "ok"),
    "newer field whole": ({"content": "", "reasoning": "```json\nANSWER\n```"}, "stop", "ok"),
    "field whole, cut": ({"content": None, "reasoning_content": "DRAFT"}, "length", "truncated"),
    "field in prose": ({"content": "", "reasoning": "So DRAFT? But"}, "stop", "parse_error"),
    "field in prose, cut": ({"content": None, "reasoning": "So DRAFT"}, "length", "truncated"),
    "field and content": ({"content": "ANSWER", "reasoning_content": "DRAFT"}, "stop", "ok"),
    "parts": ({"content": [{"type": "text", "text": "ANSWER"}]}, "stop", "ok"),
    "bare parts": ({"content": ["ANSWER"]}, "stop", "ok"),
    "parts with thought": (
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "DRAFT"}]},
                {"type": "text", "text": "ANSWER"},
            ]
        },
        "stop",
        "ok",
    ),
    "thought alone in parts": (
        {"content": [{"type": "thinking", "thinking": "So DRAFT"}]}, "stop", "parse_error",
    ),
    "refusal in parts": ({"content": [{"type": "refusal", "refusal": "no"}]}, "stop", "refused"),
    "tool call": ({"content": None, "tool_calls": call("ANSWER")}, "tool_calls", "ok"),
    "tool call and words": ({"content": "See:", "tool_calls": call("ANSWER")}, "stop", "ok"),
    "tool call and thought": (
        {"content": "<think>DRAFT", "tool_calls": call("ANSWER")}, "tool_calls", "ok",
    ),
    "old function call": (
        {"content": None, "function_call": {"name": "reply", "arguments": "ANSWER"}}, "stop", "ok",
    ),
    "tool call, cut": ({"content": None, "tool_calls": call("DRAFT")}, "length", "truncated"),
    "tool call of something": ({"content": "", "tool_calls": call('{"x": 1}')}, "stop",
                               "parse_error"),
    "tool calls that are none": ({"content": None, "tool_calls": ["x", 3]}, "stop", "parse_error"),
    "refusal": ({"content": None, "refusal": "I would rather not"}, "stop", "refused"),
    "refusal in words": ({"content": "I'm sorry, I can't help with that."}, "stop", "refused"),
    "refusal after thought": ({"content": "<think>DRAFT</think>I cannot."}, "stop", "refused"),
    "filtered": ({"content": ""}, "content_filter", "refused"),
    "nothing": ({"content": None}, "stop", "parse_error"),
    "nothing, cut": ({"content": None}, "length", "truncated"),
}  # fmt: skip


def read(request: JudgeRequest, message: dict[str, Any], finish_reason: str) -> JudgeReply:
    """The reply to a request whose answer stands where the message says."""
    text = json.dumps({"message": message, "finish_reason": finish_reason})
    for place, said in ((ANSWER, SAID), (DRAFT, GIVEN_UP)):
        text = text.replace(place, json.dumps(json.dumps(said[request.stage]))[1:-1])
    return read_completion(
        request, {"choices": [json.loads(text)]}, 0.1, (("<<plan>>", "<</plan>>"),)
    )


@pytest.mark.parametrize("request_", [EXPLAIN, CATEGORIZE], ids=["explain", "categorize"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_is_what_the_model_said_and_no_draft(kind: str, request_: JudgeRequest) -> None:
    message, finish_reason, status = KINDS[kind]
    reply = read(request_, message, finish_reason)
    assert reply.status == status, reply.error
    assert reply.parsed == (SAID[request_.stage] if status == "ok" else None)
    assert (reply.error is None) is (status == "ok")
    assert reply.raw is not None


def test_a_tool_calls_arguments_may_be_an_object() -> None:
    reply = read(EXPLAIN, {"content": None, "tool_calls": call(SAID["explain"])}, "tool_calls")
    assert reply.parsed == SAID["explain"]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("<think>DRAFT", "the thinking never ended"),
        ("<think>DRAFT</think>", "nothing was said but thinking"),
        (None, "the message's content is null"),
    ],
)
def test_what_is_missing_is_said(content: str | None, error: str) -> None:
    assert read(EXPLAIN, {"content": content}, "stop").error == error
    cut = read(EXPLAIN, {"content": content}, "length").error
    assert cut == f"cut off at judge.max_tokens: {error}"


@pytest.mark.parametrize(
    "content",
    ['{"explanation":' * 100_000, "{" * 1_000_000, '{"a": ' + "9" * 5000, '{"a": Infinity}'],
    ids=["nested", "braces", "digits", "infinity"],
)
def test_a_hostile_answer_is_a_quick_error(content: str) -> None:
    started = time.perf_counter()
    reply = read(EXPLAIN, {"content": content}, "stop")
    assert time.perf_counter() - started < 1
    assert reply.status == "parse_error"
