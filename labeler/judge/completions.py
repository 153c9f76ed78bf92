"""What a chat completion says: an answer, a refusal, a torso, or nothing usable."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from labeler.judge.answers import AnswerError, is_refusal, parse_answer
from labeler.judge.base import JudgeReply, JudgeRequest, ReplyStatus
from labeler.judge.languages import LANGUAGE_NAMES, LanguageIdentifier

_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'|\u201c[^\u201d]*\u201d|\u00ab[^\u00bb]*\u00bb|`[^`]*`")

LARGEST_COUNT = 2**31
"""What the database's integers hold."""


def read_completion(request: JudgeRequest, body: Mapping[str, Any], latency_s: float) -> JudgeReply:
    """Turn the body of a chat completion into a reply.

    `content` may be null, with the text in `reasoning` or `reasoning_content` instead. A valid
    answer counts whatever the reason the server gives for having stopped.
    """
    choice = _first_choice(body)
    message = choice.get("message") or {}
    text = _text_of(message)
    usage = body.get("usage") or {}
    raw = text if text is not None else json.dumps(message, sort_keys=True)
    status, parsed, error = _judge_text(request, text, message, choice.get("finish_reason"))
    return JudgeReply(
        status=status,
        raw=raw,
        parsed=parsed,
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        latency_s=latency_s,
        error=error,
    )


def _judge_text(
    request: JudgeRequest, text: str | None, message: Mapping[str, Any], finish_reason: Any
) -> tuple[ReplyStatus, dict[str, Any] | None, str | None]:
    if message.get("refusal"):
        return "refused", None, "the model refused"
    if finish_reason == "content_filter":
        return "refused", None, "the server's content filter stopped the answer"
    if text is None:
        if finish_reason == "length":
            return "truncated", None, "no content before judge.max_tokens was reached"
        return "parse_error", None, "content is null"
    try:
        answer = parse_answer(request, text)
        _require_english(request, answer)
        return "ok", answer, None
    except AnswerError as problem:
        if finish_reason == "length":
            return "truncated", None, f"cut off at judge.max_tokens: {problem}"
        if "{" not in text and is_refusal(text):
            return "refused", None, "the model refused"
        return "parse_error", None, str(problem)


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


def _text_of(message: Mapping[str, Any]) -> str | None:
    for key in ("content", "refusal", "reasoning_content", "reasoning"):
        value = message.get(key)
        if isinstance(value, str) and value.strip():
            return value
    return None


def _count(value: Any) -> int | None:
    """A number of tokens as told; None where it cannot be one, as limits and sums rest on it."""
    return value if isinstance(value, int) and 0 <= value < LARGEST_COUNT else None
