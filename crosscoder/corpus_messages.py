"""Messages of a corpus row: roles, content parts and tool calls as data sets write them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from crosscoder.corpus import Message
from crosscoder.errors import InputError
from crosscoder.limits import parse_json

ROLE_NAMES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
    "tool_response": "tool",
    "function_response": "tool",
}
"""The role of a message by the name that data sets give it, in lower case."""

_TEXT_PARTS = ("text", "input_text", "output_text")
_HH_TURN = re.compile(r"(?:\A|\n)\s*\n?(Human|Assistant):[ \t]?")
"""Turns of Anthropic's HH-RLHF, which writes a chat as one text."""

Row = Mapping[str, Any]
"""Values of a row by the names of the format; null values are left out."""


def found(row: Row) -> str:
    """The keys of a row, for messages."""
    keys = [repr(key if len(key) <= 40 else f"{key[:40]}...") for key in list(row)[:20]]
    more = f" and {len(row) - 20} more" if len(row) > 20 else ""
    return f"keys found: {', '.join(keys) or 'none'}{more}"


def chat(value: Any, key: str, where: str) -> tuple[Message, ...]:
    """The messages of a list of turns: `role` and `content`, or `from` and `value`.

    A text that holds JSON is read first, as tables hold it. Raises InputError.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = parse_json(value, f"{where}: {key}", any_number=True)
    if not isinstance(value, list) or not value:
        raise InputError(f"{where}: {key} must be a list of {{'role', 'content'}} objects")
    return tuple(_message(item, f"{key}[{position}]", where) for position, item in enumerate(value))


def _message(item: Any, key: str, where: str) -> Message:
    if not isinstance(item, dict):
        raise InputError(f"{where}: {key} must be an object with role and content")
    role_key = "role" if "role" in item or "from" not in item else "from"
    named = item.get(role_key)
    role = ROLE_NAMES.get(named.strip().lower()) if isinstance(named, str) else None
    if role is None:
        known = "system, developer, user, assistant or tool"
        raise InputError(f"{where}: {key}.{role_key} is {_clipped(named)}; use {known}")
    content_key = "value" if "value" in item and "content" not in item else "content"
    content = item.get(content_key)
    calls = list(_tool_calls(item))
    if content is None and calls:
        content = ""
    text = text_of(content, f"{key}.{content_key}", where)
    parts = [text, *calls] if text else calls
    return Message(role, "\n".join(parts))


def text_of(value: Any, key: str, where: str) -> str:
    """A text, or the joined texts of a list of parts; InputError for anything else."""
    if isinstance(value, list):
        value = "".join(_part(part, f"{key}[{i}]", where) for i, part in enumerate(value))
    if not isinstance(value, str):
        raise InputError(f"{where}: {key} must be a text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(
            f"{where}: {key} holds half of a surrogate pair (\\ud800-\\udfff); remove it"
        ) from None
    return value


def _part(part: Any, key: str, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, dict) else None
    text = part.get("text") if isinstance(part, dict) else None
    if kind not in _TEXT_PARTS or not isinstance(text, str):
        raise InputError(f"{where}: {key} is a part of type {_clipped(kind)}; only text is read")
    return text


def _tool_calls(item: Row) -> Iterator[str]:
    """The calls of a message as text, in the form that Qwen's and Hermes' templates write."""
    calls = item.get("tool_calls") or []
    legacy = item.get("function_call")
    for call in [*(calls if isinstance(calls, list) else []), *([legacy] if legacy else [])]:
        function = call.get("function", call) if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            shown = {"name": function["name"], "arguments": _arguments(function.get("arguments"))}
            yield f"<tool_call>\n{json.dumps(shown, ensure_ascii=False)}\n</tool_call>"


def _arguments(value: Any) -> Any:
    """Arguments come as an object or as the text of one."""
    if not isinstance(value, str):
        return {} if value is None else value
    try:
        return parse_json(value, "arguments", any_number=True)
    except InputError:
        return value


def hh_turns(text: str) -> tuple[Message, ...] | None:
    """The turns of a text that begins with `Human:`; None for any other text."""
    marks = list(_HH_TURN.finditer(text))
    if not marks or marks[0].start() != 0 or marks[0][1] != "Human":
        return None
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return tuple(
        Message(ROLE_NAMES[mark[1].lower()], text[mark.end() : end].strip())
        for mark, end in zip(marks, ends, strict=True)
    )


def prompt_messages(row: Row, key: str, where: str) -> tuple[Message, ...]:
    """The messages of a prompt, those of a `system` beside it first."""
    messages = turns(row[key], key, "user", where)
    return messages if messages[0].role == "system" else (*system_messages(row, where), *messages)


def turns(value: Any, key: str, role: str, where: str) -> tuple[Message, ...]:
    """A text as one message of that role, a list of messages as it is."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return chat(value, key, where)
    return (Message(role, text_of(value, key, where)),)


def system_messages(row: Row, where: str) -> tuple[Message, ...]:
    """The message of a `system` that stands beside the turns; none where it is blank."""
    text = text_of(row.get("system", ""), "system", where)
    return (Message("system", text),) if text.strip() else ()


def _clipped(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."
