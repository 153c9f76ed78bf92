"""The record of every call: what was answered is never asked again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from labeler.judge.base import JudgeIdentity, JudgeReply, JudgeRequest
from labeler.judge.requests import prompt_file
from labeler.store.engine import read_session, write_session
from labeler.store.judging_records import (
    CallRow,
    find_ok_call,
    get_or_create_judge,
    get_or_create_prompt,
    record_call,
)


@dataclass(frozen=True)
class StoredCall:
    """A call as it stands in the database."""

    id: int
    status: str
    parsed: dict[str, Any] | None
    error: str | None
    was_asked: bool
    """False where an earlier run had asked it."""


class CallStore:
    """Calls of one judge in one run; each is committed as soon as it has ended."""

    def __init__(self, engine: Engine, identity: JudgeIdentity, run_id: int) -> None:
        self._engine = engine
        self._identity = identity
        self._run_id = run_id
        self._prompt_ids: dict[str, int] = {}
        with write_session(engine) as session:
            self.judge_id = get_or_create_judge(
                session,
                identity.name,
                identity.model,
                identity.endpoint_kind,
                params=identity.params,
                params_sha256=identity.params_sha256,
            ).id

    def find(self, request: JudgeRequest) -> StoredCall | None:
        """The answered call of an equal request, whichever run or latent it was made for."""
        with read_session(self._engine) as session:
            row = find_ok_call(
                session, self.judge_id, request.sha256(self._identity), request.sample
            )
            if row is None:
                return None
            return StoredCall(row.id, row.status, row.parsed, row.error, was_asked=False)

    def record(self, request: JudgeRequest, reply: JudgeReply, latent_id: int | None) -> StoredCall:
        """Write one ended attempt under the next attempt number."""
        prompt_id = self._prompt_id(request)
        with write_session(self._engine) as session:
            row = record_call(
                session,
                CallRow(
                    judge_id=self.judge_id,
                    request_sha256=request.sha256(self._identity),
                    stage=request.stage,
                    run_id=self._run_id,
                    status=reply.status,
                    raw=reply.raw,
                    sample=request.sample,
                    parsed=reply.parsed,
                    latent_id=latent_id,
                    prompt_id=prompt_id,
                    error=reply.error,
                    latency_s=reply.latency_s,
                    prompt_tokens=reply.prompt_tokens,
                    completion_tokens=reply.completion_tokens,
                ),
            )
        return StoredCall(row.id, reply.status, reply.parsed, reply.error, was_asked=True)

    def _prompt_id(self, request: JudgeRequest) -> int:
        known = self._prompt_ids.get(request.prompt_sha256)
        if known is None:
            prompt = prompt_file(request.prompt_name)
            with write_session(self._engine) as session:
                known = get_or_create_prompt(session, prompt.sha256, prompt.name, prompt.text).id
            self._prompt_ids[request.prompt_sha256] = known
        return known


OnAnswer = Callable[["Question", StoredCall], None]
"""Told of the final call of each question, in the order in which they end."""


@dataclass(frozen=True)
class Question:
    """A request for one latent."""

    latent_id: int
    request: JudgeRequest
