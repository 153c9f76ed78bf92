"""What a chat completion says: an answer, a refusal, a torso, or nothing usable.

The one reader of judges' answers: whoever asks a server reads its body here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from labeler.judge.answers import (
    AnswerError,
    Marker,
    Said,
    check_answer,
    find_answer,
    is_refusal,
    split_thinking,
    whole_object,
)
from labeler.judge.base import JudgeReply, JudgeRequest, ReplyStatus
from labeler.judge.evidence_statistics import LANGUAGE_NAMES, LanguageIdentifier

_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'|\u201c[^\u201d]*\u201d|\u00ab[^\u00bb]*\u00bb|`[^`]*`")

LARGEST_COUNT = 2**31
"""What the database's integers hold."""
SHOWN_VALUE, LONGEST_RAW = 40, 20_000
"""Characters of a wrong value that a message quotes; of a body without an answer that are kept."""


@dataclass(frozen=True)
class Message:
    """The message of a chat completion, taken apart."""

    said: Said
    """The visible content, and thinking in it."""
    reasoning: str = ""
    """Thinking that the server keeps in a field of its own."""
    tool_calls: tuple[str, ...] = ()
    """Arguments of tool calls, as JSON."""
    refusal: str | None = None
    """Why there is no answer, where the model or a filter declined to give one."""
    is_cut: bool = False
    """The answer reached the longest that was asked for."""
    content: Any = None
    """The content as it came."""
    problem: str | None = None
    """Why the message cannot be read at all."""


def read_completion(
    request: JudgeRequest,
    body: Mapping[str, Any],
    latency_s: float,
    markers: Sequence[Marker] = (),
) -> JudgeReply:
    """Turn the body of a chat completion into a reply; `markers` of thinking add to the known ones.

    What is said inside thinking is never an answer. The text of a field for reasoning counts where
    there is nothing else, it is wholly the JSON object, and the answer was not cut: some servers
    move an answer there. An answer that was cut counts where it is wholly the JSON object.
    """
    usage = _object(body.get("usage"))
    status: ReplyStatus
    parsed: dict[str, Any] | None
    error: str | None
    shapeless = shape_problem(body)
    if shapeless is not None:
        raw = json.dumps(body, sort_keys=True)[:LONGEST_RAW]
        status, parsed, error = "parse_error", None, shapeless
    else:
        message = read_message(body, markers)
        raw = _raw(body, message)
        status, parsed, error = _judged(request, message)
    return JudgeReply(
        status=status,
        raw=raw,
        parsed=parsed,
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        latency_s=latency_s,
        error=error,
    )


def read_message(body: Mapping[str, Any], markers: Sequence[Marker] = ()) -> Message:
    """Take the first message of a chat completion apart; `shape_problem` says whether it is one."""
    choice = _first_choice(body)
    message = _object(choice.get("message"))
    text, parts_thinking, refusal = _content(message.get("content"))
    finish_reason = choice.get("finish_reason")
    problem = None
    try:
        said = split_thinking(text, markers)
    except AnswerError as error:
        said, problem = Said(""), str(error)
    if refusal or message.get("refusal"):
        problem, refusal = None, "the model refused"
    elif finish_reason == "content_filter":
        problem, refusal = None, "the server's content filter stopped the answer"
    return Message(
        said=said,
        reasoning="".join([parts_thinking, *_texts(message, "reasoning_content", "reasoning")[:1]]),
        tool_calls=_tool_calls(message),
        refusal=refusal,
        is_cut=finish_reason == "length",
        content=message.get("content"),
        problem=problem,
    )


def _judged(
    request: JudgeRequest, message: Message
) -> tuple[ReplyStatus, dict[str, Any] | None, str | None]:
    if message.refusal is not None:
        return "refused", None, message.refusal
    if message.problem is not None:
        return "parse_error", None, message.problem
    try:
        answer = _answer(request, message)
        _require_english(request, answer)
        return "ok", answer, None
    except AnswerError as problem:
        if message.is_cut:
            return "truncated", None, f"cut off at judge.max_tokens: {problem}"
        if "{" not in message.said.words and is_refusal(message.said.words):
            return "refused", None, "the model refused"
        return "parse_error", None, str(problem)


def _answer(request: JudgeRequest, message: Message) -> dict[str, Any]:
    """The answer of a message; AnswerError says why there is none."""
    words = message.said.words
    if message.is_cut:
        whole = whole_object(words)
        if whole is None:
            raise AnswerError(_missing(message) or "the JSON object is not all that was said")
        return check_answer(request, whole)
    if message.tool_calls and whole_object(words) is None:
        return find_answer(request, "\n".join(message.tool_calls))
    if words and not message.said.is_open:
        return find_answer(request, words)
    whole = None if message.said.is_open else whole_object(message.reasoning)
    if whole is None:
        raise AnswerError(_missing(message) or "no JSON object in the answer")
    return check_answer(request, whole)


def _missing(message: Message) -> str | None:
    """What stands in the place of visible words; None where there are some."""
    if message.said.is_open:
        return "the thinking never ended"
    if message.said.words:
        return None
    if message.said.thinking or message.reasoning:
        return "nothing was said but thinking"
    return f"the message's content is {_kind(message.content)}"


def shape_problem(body: Mapping[str, Any]) -> str | None:
    """How a body differs from a chat completion, whatever the model said; None where it is one."""
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        what = "no choices" if "choices" not in body else f"choices that are {_kind(choices)}"
        return f"the reply is no chat completion: it has {what}"
    if not isinstance(choices[0], dict):
        return f"the reply is no chat completion: its first choice is {_kind(choices[0])}"
    if choices[0].get("finish_reason") == "content_filter":
        return None
    if not isinstance(choices[0].get("message"), dict):
        return "the reply is no chat completion: its first choice has no message"
    content = choices[0]["message"].get("content")
    if content is not None and not isinstance(content, str | list):
        return (
            f"the reply is no chat completion: the message's content is {_kind(content)}, no text"
        )
    return None


def _kind(value: Any) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    if value in ("", [], {}):
        return "empty"
    return f"{json.dumps(value)[:SHOWN_VALUE]}"


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _require_english(request: JudgeRequest, answer: Mapping[str, Any]) -> None:
    """AnswerError for an explanation that is certainly in another language, quotations aside."""
    if request.stage != "explain":
        return
    own_words = _QUOTED.sub(" ", str(answer["explanation"]))
    language = _identifier().certain_language(own_words)
    if language not in (None, "en"):
        name = LANGUAGE_NAMES[str(language)]
        raise AnswerError(f"the explanation is in {name}, not in English")


@cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier()


def _first_choice(body: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = body.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return choices[0]
    return {}


def _content(content: Any) -> tuple[str, str, str | None]:
    """Text, thinking and refusal of a content, which is a text or a list of parts."""
    if not isinstance(content, list):
        return (content if isinstance(content, str) else ""), "", None
    found: dict[str, list[str]] = {"text": [], "thinking": [], "refusal": []}
    for part in content:
        kind = "text" if isinstance(part, str) else str(_object(part).get("type", "text"))
        if kind in ("reasoning", "thinking", "redacted_thinking"):
            found["thinking"].append(_part_text(part, "thinking", "reasoning", "text"))
        elif kind == "refusal":
            found["refusal"].append(_part_text(part, "refusal", "text"))
        else:
            found["text"].append(_part_text(part, "text", "content"))
    text, thinking, refusal = ("".join(found[kind]) for kind in found)
    return text, thinking, refusal or None


def _part_text(part: Any, *keys: str) -> str:
    """The text of a part, under the first of the keys that holds one, or parts of one."""
    if isinstance(part, str):
        return part
    for key in keys:
        value = _object(part).get(key)
        if isinstance(value, str):
            return value
        if isinstance(value, list):
            return "".join(_part_text(inner, *keys) for inner in value)
    return ""


def _tool_calls(message: Mapping[str, Any]) -> tuple[str, ...]:
    """Arguments of the message's tool calls: text, or an object at servers that parse it."""
    calls = message.get("tool_calls")
    functions = [_object(call).get("function") for call in calls] if isinstance(calls, list) else []
    given = [_object(one).get("arguments") for one in [*functions, message.get("function_call")]]
    texts = (json.dumps(one) if isinstance(one, dict) else one for one in given)
    return tuple(text for text in texts if isinstance(text, str) and text.strip())


def _texts(message: Mapping[str, Any], *keys: str) -> list[str]:
    found = (message.get(key) for key in keys)
    return [text for text in found if isinstance(text, str) and text.strip()]


def _raw(body: Mapping[str, Any], message: Message) -> str:
    """The judge's words: the content where that is a text, else the message as it came."""
    if isinstance(message.content, str) and message.content.strip():
        return message.content
    whole = _object(_first_choice(body).get("message"))
    texts = _texts(whole, "refusal", "reasoning_content", "reasoning")
    alone = texts and not message.tool_calls and not isinstance(message.content, list)
    return texts[0] if alone else json.dumps(whole, sort_keys=True)


def _count(value: Any) -> int | None:
    """A number of tokens as told; None where it cannot be one, as limits and sums rest on it."""
    return value if isinstance(value, int) and 0 <= value < LARGEST_COUNT else None
