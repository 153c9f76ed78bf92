"""A judge with scripted answers: for tests, and to replay a recorded batch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from crosscoder.files import sha256_text
from crosscoder.limits import lines_of, read_text
from labeler.errors import UsageError
from labeler.judge.answers import AnswerError, parse_answer
from labeler.judge.base import (
    JudgeIdentity,
    JudgeKind,
    JudgeReply,
    JudgeRequest,
    OnAttempt,
    ignore_attempt,
)
from labeler.study.config import JUDGE_KINDS
from labeler.study.judge_config import JudgeSection

if TYPE_CHECKING:
    from labeler.embedding.base import Embedder

Script = Callable[[JudgeRequest], str | dict[str, Any] | JudgeReply]
"""Gives the answer to a request: its text, its JSON, or a whole reply."""


class ScriptLine(BaseModel):
    """One line of a script; it answers a request that matches all its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    answer: dict[str, Any] | str
    latent_index: int | None = None
    crosscoder: str | None = None
    contains: str | None = None
    """Text that occurs in the request's messages."""

    def fits(self, request: JudgeRequest) -> bool:
        """Whether this line answers the request."""
        subject = request.subject
        if self.stage != request.stage:
            return False
        if self.latent_index is not None and (
            subject is None or subject.latent_index != self.latent_index
        ):
            return False
        if self.crosscoder is not None and (
            subject is None or subject.crosscoder != self.crosscoder
        ):
            return False
        return self.contains is None or any(
            self.contains in message.content for message in request.messages
        )


@JUDGE_KINDS.register("scripted")
class ScriptedKind(JudgeKind):
    """`kind = "scripted"`: answers lie in a JSONL file."""

    note = "Scripted answers, as tests use them."

    def make(
        self, section: JudgeSection, folder: Path | None, embedder: Embedder | None
    ) -> ScriptedJudge:
        """A judge that reads `script`."""
        if section.script is None:
            raise UsageError("judge.script: missing; kind = scripted needs a JSONL file")
        script = Path(section.script).expanduser()
        return ScriptedJudge.from_file(script if folder is None else folder / script)


class ScriptedJudge:
    """Answers by a function; `asked` holds its requests."""

    def __init__(self, script: Script, name: str = "scripted", concurrency: int = 4) -> None:
        self._script = script
        self._concurrency = concurrency
        self._identity = JudgeIdentity(name=name, model="script", endpoint_kind="scripted")
        self.asked: list[JudgeRequest] = []

    @classmethod
    def from_file(cls, path: Path) -> ScriptedJudge:
        """Answers of a JSONL file, the first line that fits counts; UsageError names a bad line."""
        lines = _read_lines(path)
        judge = cls(lambda request: _first_fitting(lines, request))
        content = "\n".join(line.model_dump_json() for line in lines)
        judge._identity = JudgeIdentity(
            "scripted", "script", "scripted", {"script_sha256": sha256_text(content)}
        )
        return judge

    @property
    def identity(self) -> JudgeIdentity:
        """Name and, for a file, its hash."""
        return self._identity

    @property
    def concurrency(self) -> int:
        """Requests in flight."""
        return self._concurrency

    async def ask(
        self, request: JudgeRequest, on_attempt: OnAttempt = ignore_attempt
    ) -> JudgeReply:
        """Look up the answer and check it like a server's answer."""
        self.asked.append(request)
        reply = _as_reply(request, self._script(request))
        await on_attempt(reply)
        return reply

    async def aclose(self) -> None:
        """Nothing is open."""


def _as_reply(request: JudgeRequest, answer: str | dict[str, Any] | JudgeReply) -> JudgeReply:
    if isinstance(answer, JudgeReply):
        return answer
    raw = answer if isinstance(answer, str) else json.dumps(answer, sort_keys=True)
    try:
        parsed = parse_answer(request, raw)
    except AnswerError as error:
        return JudgeReply("parse_error", raw=raw, error=str(error))
    return JudgeReply("ok", raw=raw, parsed=parsed)


def _first_fitting(
    lines: Sequence[ScriptLine], request: JudgeRequest
) -> str | dict[str, Any] | JudgeReply:
    for line in lines:
        if line.fits(request):
            return line.answer
    return JudgeReply("parse_error", error="no line of the script fits this request")


def _read_lines(path: Path) -> list[ScriptLine]:
    try:
        text = read_text(path)
    except UsageError as error:
        raise UsageError(f"judge.script: {error}") from None
    lines = []
    for number, line in lines_of(text, path):
        try:
            lines.append(ScriptLine.model_validate_json(line))
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise UsageError(f"judge.script: {path}, line {number}: {reason}") from None
    return lines
