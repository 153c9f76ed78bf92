"""What a server's error means: of this one request, of every request, or of the moment."""

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
"""Requests of a stage refused for unknown reasons, without an answer, until that is asked again."""
YEAR_S = 365 * 86400.0
RequestOutcome = Literal["too_long", "refused"]
"""What a request can meet on its own, whatever happens to others."""

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
"""What 403 must say to be a filter's word and not that a key may not."""
_BY_STATUS: dict[int, RequestOutcome] = {413: "too_long", 451: "refused"}
_OF_THE_CALL = frozenset({400, 413, 422, 451})
"""Statuses that speak of what was sent, and neither of who sent it nor of where."""


@dataclass(frozen=True)
class ServerError:
    """An answer with a status other than 200."""

    status: int
    words: str
    """What the server says, on one line, a key in it blotted out."""
    codes: tuple[str, ...] = ()
    """Machine-readable names of the error: code, type, parameter."""

    @cached_property
    def text(self) -> str:
        """Words and codes, to be searched."""
        return " ".join([self.words, *self.codes])

    @property
    def shown(self) -> str:
        """Status and words."""
        return f"{self.status}: {self.words}"

    @property
    def is_of_the_call(self) -> bool:
        """Whether it speaks of what was sent."""
        return self.status in _OF_THE_CALL

    @property
    def outcome(self) -> RequestOutcome | None:
        """What became of the request, where the words say that it is this one's own fault."""
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
    """Read an error's body, whatever it is; the key in the named variable is blotted out."""
    words = without_key(server_words(content), key_variable)
    try:
        body = parse_json(content, "the error")
    except InputError:
        return ServerError(status, words)
    return ServerError(status, words, tuple(_codes(body)))


def server_words(content: bytes) -> str:
    """What a server says of an error, on one line: its message, else the beginning of the body."""
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
    """One complaint of a validator: where and what, without the value, which is the prompt."""
    where = detail.get("loc")
    parts = [str(part) for part in where] if isinstance(where, list) else []
    return f"{'.'.join(parts)}: {detail.get('msg', '')}"


def _shown(text: str) -> str:
    return one_line(text[: 4 * SHOWN_CHARACTERS])[:SHOWN_CHARACTERS] or "no words"


def _codes(body: Any) -> Iterator[str]:
    """Short texts under the names that servers give to codes, at the first two levels."""
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
    """Requests refused for reasons that nobody knows, by stage, since one was answered."""

    since_answer: dict[str, int] = field(default_factory=dict)
    """Stages of which no request was ever answered are missing."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def answered(self, stage: str) -> None:
        """A request of the stage was answered."""
        self.since_answer[stage] = 0

    def must_ask(self, stage: str) -> bool:
        """Count a refusal; whether a harmless request must tell if it is this one's alone."""
        count = self.since_answer.get(stage)
        if count is None or count >= UNKNOWN_IN_A_ROW:
            return True
        self.since_answer[stage] = count + 1
        return False

    def rest(self) -> None:
        """A lock belongs to the loop in which it was first waited for."""
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
    """A length of time in its largest fitting unit."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"
