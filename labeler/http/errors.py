"""Server errors: whether they concern one request, every request, or pass with time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any, Literal

from crosscoder.errors import InputError
from crosscoder.limits import parse_json
from labeler.http.connections import without_key
from labeler.text import one_line

SHOWN_CHARACTERS = 500
"""Most characters of a server's error that are kept."""
UNKNOWN_IN_A_ROW = 5
"""Refusals for unknown reasons in a row, per stage, after which a control request is sent."""
YEAR_S = 365 * 86400.0
RequestOutcome = Literal["too_long", "refused"]
"""Outcomes that concern one request alone."""

_TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size|string_above_max_length|"
    r"context (?:length|window|size)|context is too (?:short|small)|"
    r"(?:prompt|input|request|message)s? (?:is|are) too (?:long|large)|"
    r"reduce the length|longer than the (?:model|maximum)|too many (?:input )?tokens|"
    r"maximum number of (?:input )?tokens|max(?:imum)?[ _](?:input|prompt|model|seq)\w*[ _]len|"
    r"tokens? .{0,40}(?:exceeds?|must be <=)|exceeds? .{0,60}tokens?",
    re.IGNORECASE,
)
_FILTERED = re.compile(
    r"content[_ ](?:filter|management|policy|moderation)|content_policy_violation|"
    r"responsible ?ai|data_?inspection|prohibited_content|moderation|\bflagged\b|"
    r"usage polic|safety (?:system|filter|polic|setting)|violat\w+ .{0,60}polic|"
    r"(?:inappropriate|sensitive|unsafe|harmful) content",
    re.IGNORECASE,
)
_MODERATED = re.compile(r"moderation|\bflagged\b|content_filter|content_policy", re.IGNORECASE)
"""A 403 that matches comes from a content filter; any other is about the key."""
_BY_STATUS: dict[int, RequestOutcome] = {413: "too_long", 451: "refused"}
_OF_THE_CALL = frozenset({400, 413, 422, 451})
"""Statuses about the content of the request, not about its sender or address."""


@dataclass(frozen=True)
class ServerError:
    """An answer with a status other than 200."""

    status: int
    words: str
    """The server's message on one line, without the key."""
    codes: tuple[str, ...] = ()
    """Machine-readable names of the error: code, type, parameter."""

    @cached_property
    def text(self) -> str:
        """Words and codes, for searching."""
        return " ".join([self.words, *self.codes])

    @property
    def shown(self) -> str:
        """Status and words."""
        return f"{self.status}: {self.words}"

    @property
    def is_of_the_call(self) -> bool:
        """Whether the error is about the content of the request."""
        return self.status in _OF_THE_CALL

    @property
    def outcome(self) -> RequestOutcome | None:
        """The request's outcome, where the error concerns this request alone; else None."""
        if self.status == 403:
            return "refused" if _MODERATED.search(self.text) else None
        if self.status == 500:
            return "too_long" if "exceed" in self.text and "context size" in self.text else None
        if not self.is_of_the_call:
            return None
        if self.status in _BY_STATUS:
            return _BY_STATUS[self.status]
        if _FILTERED.search(self.text):
            return "refused"
        return "too_long" if _TOO_LONG.search(self.text) else None


def server_error(status: int, content: bytes, key_variable: str | None = None) -> ServerError:
    """Read an error's body of any form, without the key in the named variable."""
    words = without_key(server_words(content), key_variable)
    try:
        body = parse_json(content, "the error")
    except InputError:
        return ServerError(status, words)
    return ServerError(status, words, tuple(_codes(body)))


def server_words(content: bytes) -> str:
    """A server's error message on one line, else the beginning of the body."""
    try:
        body = parse_json(content, "the error")
    except InputError:
        body = None
    if isinstance(body, dict):
        inner = body.get("error", body)
        message = inner.get("message", inner.get("detail")) if isinstance(inner, dict) else inner
        if isinstance(message, list):
            message = "; ".join(_complaint(each) for each in message if isinstance(each, dict))
        if isinstance(message, str) and message:
            return _shown(message)
    return _shown(content[: 4 * SHOWN_CHARACTERS].decode("utf-8", "replace"))


def _complaint(detail: Mapping[str, Any]) -> str:
    """One error of a validator: place and message, without the value, which is the prompt."""
    where = detail.get("loc")
    parts = [str(part) for part in where] if isinstance(where, list) else []
    return f"{'.'.join(parts)}: {detail.get('msg', '')}"


def _shown(text: str) -> str:
    return one_line(text[: 4 * SHOWN_CHARACTERS])[:SHOWN_CHARACTERS] or "no words"


def _codes(body: Any) -> Iterator[str]:
    """Error codes at the first two levels of the body."""
    if not isinstance(body, Mapping):
        return
    inner = body.get("error")
    for part in (body, inner if isinstance(inner, Mapping) else {}):
        for key in ("code", "type", "param", "innererror"):
            value = part.get(key)
            if isinstance(value, Mapping):
                value = value.get("code")
            if isinstance(value, str):
                yield one_line(value[:SHOWN_CHARACTERS])


@dataclass
class UnknownRefusals:
    """Counts refusals for unknown reasons, by stage, since the last answer."""

    since_answer: dict[str, int] = field(default_factory=dict)
    """A stage without any answer yet has no entry."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def answered(self, stage: str) -> None:
        """A request of the stage was answered."""
        self.since_answer[stage] = 0

    def must_ask(self, stage: str) -> bool:
        """Count a refusal; True where a control request must tell if every request is refused."""
        count = self.since_answer.get(stage)
        if count is None or count >= UNKNOWN_IN_A_ROW:
            return True
        self.since_answer[stage] = count + 1
        return False

    def rest(self) -> None:
        """Drop the lock: it belongs to the event loop in which it was first used."""
        self.lock = asyncio.Lock()


def is_worth_retrying(status_code: int) -> bool:
    """Whether a server that answers with this HTTP status may answer differently later."""
    return status_code in (408, 429) or status_code >= 500


def retry_after_s(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds of a Retry-After header, given in seconds or as an HTTP date; None without one."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            moment = parsedate_to_datetime(header)
        except ValueError:
            return None
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    if seconds != seconds:
        return None
    return min(max(seconds, 0.0), YEAR_S)


def duration_words(seconds: float) -> str:
    """A duration in its largest fitting unit."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"
