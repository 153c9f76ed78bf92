"""Records every judge call in the database, so that no answered request is sent again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from labeler.judge.base import (
    Judge,
    JudgeIdentity,
    JudgeReply,
    JudgeRequest,
    UsesParameters,
    judge_kind,
)
from labeler.judge.prompts import prompt_file
from labeler.store.engine import read_session, write_session
from labeler.store.judging import (
    CallRow,
    add_judge_parameters,
    find_ended_calls,
    get_or_create_judge,
    get_or_create_prompt,
    judge_parameters,
    record_calls,
)
from labeler.store.runs import Claims, Worker
from labeler.store.schema import JudgeCall, utc_now


@dataclass(frozen=True)
class StoredCall:
    """A call as stored in the database."""

    id: int
    status: str
    parsed: dict[str, Any] | None
    error: str | None
    was_asked: bool
    """False where the answer came from an earlier run, another worker or an equal question."""


@dataclass(frozen=True)
class Question:
    """A request for one latent."""

    latent_id: int
    request: JudgeRequest


@dataclass(frozen=True)
class HashedRequest:
    """A question with its request's hash."""

    question: Question
    key: str


@dataclass(frozen=True)
class EndedAttempt:
    """One finished attempt."""

    asked: HashedRequest
    reply: JudgeReply


@dataclass(frozen=True)
class Reservation:
    """Result of reserving questions, by the hashes of their requests."""

    ended: Mapping[str, StoredCall]
    """Calls that need no request: answered, or ended for good, or failed since this batch began."""
    claimed: Collection[str] = field(default_factory=frozenset)
    """Requests that this worker sends; those in neither field are with another worker."""


OnAnswer = Callable[[Question, StoredCall], None]
"""Called with the final call of each question, in the order in which they end."""
Keep = Callable[[Sequence[tuple[Question, StoredCall]]], None]
"""Writes the rows that follow from final calls, many at a time, in a separate thread."""


class CallStore:
    """Stores the calls of one judge in one run, each as soon as it has ended."""

    def __init__(
        self, engine: Engine, identity: JudgeIdentity, run_id: int, worker: Worker | None = None
    ) -> None:
        self._engine = engine
        self._identity = identity
        self._run_id = run_id
        self._claims = Claims(worker or Worker.here(), run_id)
        self._began = utc_now()
        self._prompt_ids: dict[str, int] = {}
        self._reads_windows = judge_kind(identity.endpoint_kind).reads_windows
        with write_session(engine) as session:
            self.judge_id = get_or_create_judge(
                session,
                identity.name,
                identity.model,
                identity.endpoint_kind,
                params=identity.params,
                params_sha256=identity.params_sha256,
            ).id
            self._parameters = judge_parameters(session, self.judge_id)

    def prepare(self, judge: Judge) -> None:
        """Give the judge the parameters that earlier runs found."""
        if self._parameters is not None and isinstance(judge, UsesParameters):
            judge.use_parameters(self._parameters)

    @property
    def lease_s(self) -> float:
        """Seconds after which claims that are not renewed may be taken over."""
        return self._claims.lease_s

    def hashed(self, question: Question) -> HashedRequest:
        """The question with its request's hash, which is the key of its call."""
        return HashedRequest(question, question.request.sha256(self._identity))

    def find(self, request: JudgeRequest) -> StoredCall | None:
        """The answered call of an equal request, whichever run or latent it was made for."""
        key = request.sha256(self._identity)
        with read_session(self._engine) as session:
            return _stored(find_ended_calls(session, self.judge_id, [key])).get(key)

    def answered(self, keys: Collection[str]) -> dict[str, StoredCall]:
        """The answered calls among these requests."""
        with read_session(self._engine) as session:
            return _stored(find_ended_calls(session, self.judge_id, keys))

    def reserve(self, asked: Sequence[HashedRequest]) -> Reservation:
        """Look up the calls that have ended and claim the rest for this worker."""
        ended = self.answered({each.key for each in asked})
        open_ = [each for each in asked if each.key not in ended]
        if not open_:
            return Reservation(ended)
        claimed: set[str] = set()
        with write_session(self._engine) as session:
            for stage, keys in _by_stage(open_).items():
                taken = self._claims.take(session, stage, keys)
                # Another worker's answer and the end of its claim are one transaction: looking
                # after the claim is granted sees it.
                found = _stored(
                    find_ended_calls(session, self.judge_id, taken, failed_since=self._began)
                )
                self._claims.give_back(session, stage, found)
                ended |= found
                claimed |= taken - found.keys()
        return Reservation(ended, claimed)

    def record(self, request: JudgeRequest, reply: JudgeReply, latent_id: int | None) -> StoredCall:
        """Write one ended attempt under the next attempt number."""
        row = self._row(request, request.sha256(self._identity), reply, latent_id)
        with write_session(self._engine) as session:
            (call_id,) = record_calls(session, [row])
            self._keep_parameters(session, [reply])
        return _as_stored(call_id, reply)

    def record_all(
        self, attempts: Sequence[EndedAttempt], ended: Sequence[HashedRequest]
    ) -> list[StoredCall]:
        """Write ended attempts and end the claims of ended questions in one transaction."""
        rows = [
            self._row(
                each.asked.question.request,
                each.asked.key,
                each.reply,
                each.asked.question.latent_id,
            )
            for each in attempts
        ]
        with write_session(self._engine) as session:
            ids = record_calls(session, rows) if rows else []
            self._keep_parameters(session, [each.reply for each in attempts])
            for stage, keys in _by_stage(ended).items():
                self._claims.give_back(session, stage, keys)
        return [
            _as_stored(call_id, each.reply) for call_id, each in zip(ids, attempts, strict=True)
        ]

    def _keep_parameters(self, session: Session, replies: Sequence[JudgeReply]) -> None:
        """Store the server's parameters where they are new."""
        for reply in replies:
            found = reply.parameters
            if found is not None and found != self._parameters:
                add_judge_parameters(session, self.judge_id, self._run_id, found)
                self._parameters = dict(found)

    def renew_claims(self) -> None:
        """Extend this worker's claims, so that no other worker takes them over."""
        with write_session(self._engine) as session:
            self._claims.renew(session)

    def release_claims(self) -> None:
        """Release this worker's claims for others."""
        with write_session(self._engine) as session:
            self._claims.give_all_back(session)

    def _row(
        self, request: JudgeRequest, key: str, reply: JudgeReply, latent_id: int | None
    ) -> CallRow:
        return CallRow(
            judge_id=self.judge_id,
            request_sha256=key,
            stage=request.stage,
            run_id=self._run_id,
            status=reply.status,
            raw=reply.raw,
            sample=request.sample,
            parsed=reply.parsed,
            options=self._shown_options(request),
            latent_id=latent_id,
            prompt_id=self._prompt_id(request),
            error=reply.error,
            latency_s=reply.latency_s,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            estimated_prompt_tokens=reply.estimated_prompt_tokens,
            estimated_completion_tokens=reply.estimated_completion_tokens,
        )

    def _shown_options(self, request: JudgeRequest) -> list[str] | None:
        """The categories that a prompt showed, in its order."""
        if request.stage != "categorize" or self._reads_windows:
            return None
        return [option.slug for option in request.options]

    def _prompt_id(self, request: JudgeRequest) -> int:
        known = self._prompt_ids.get(request.prompt_sha256)
        if known is None:
            prompt = prompt_file(request.prompt_name)
            with write_session(self._engine) as session:
                known = get_or_create_prompt(session, prompt.sha256, prompt.name, prompt.text).id
            self._prompt_ids[request.prompt_sha256] = known
        return known


async def ask_each(
    judge: Judge, store: CallStore, requests: Sequence[JudgeRequest]
) -> list[StoredCall]:
    """The final call of each request that concerns no latent, in the order given.

    Every call is recorded. Equal requests share one, and an answered request is not sent again.
    After the first error nothing more is sent; it is raised once what was in flight is recorded.
    """
    slots = asyncio.Semaphore(judge.concurrency)
    answered: dict[str, StoredCall] = {}
    errors: list[Exception] = []

    async def one(key: str, request: JudgeRequest) -> None:
        async with slots:
            if errors:
                return
            try:
                answered[key] = store.find(request) or await _ask(judge, store, request)
            except Exception as error:
                errors.append(error)

    by_key = {request.sha256(judge.identity): request for request in requests}
    try:
        await asyncio.gather(*(one(key, request) for key, request in by_key.items()))
    finally:
        await judge.aclose()
    if errors:
        raise errors[0]
    return [answered[request.sha256(judge.identity)] for request in requests]


async def _ask(judge: Judge, store: CallStore, request: JudgeRequest) -> StoredCall:
    calls: list[StoredCall] = []

    async def record(reply: JudgeReply) -> None:
        calls.append(store.record(request, reply, None))

    await judge.ask(request, record)
    return calls[-1]


def _stored(calls: Mapping[str, JudgeCall]) -> dict[str, StoredCall]:
    return {
        key: StoredCall(call.id, call.status, call.parsed, call.error, was_asked=False)
        for key, call in calls.items()
    }


def _as_stored(call_id: int, reply: JudgeReply) -> StoredCall:
    return StoredCall(call_id, reply.status, reply.parsed, reply.error, was_asked=True)


def _by_stage(asked: Sequence[HashedRequest]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for each in asked:
        grouped.setdefault(each.question.request.stage, []).append(each.key)
    return grouped
