"""Asks many questions at a time: workers on a bounded queue, answers recorded as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from labeler.errors import WorkError
from labeler.judge.base import Judge, JudgeReply
from labeler.judge.calls import CallStore, OnAnswer, Question, StoredCall

QUEUE_PER_WORKER = 2
"""Questions prepared ahead for each worker."""


@dataclass(frozen=True)
class FailureLimit:
    """When a batch is given up: more than `share` of at least `min_calls` calls failed."""

    share: float = 0.2
    min_calls: int = 20


class _Failures:
    """Counts calls that ended for good, and gives up."""

    def __init__(self, judge_name: str, limit: FailureLimit) -> None:
        self._judge_name = judge_name
        self._limit = limit
        self._asked = 0
        self._failed = 0

    def count(self, call: StoredCall) -> None:
        """Count one; WorkError where too many failed."""
        self._asked += 1
        self._failed += call.status != "ok"
        enough = self._asked >= self._limit.min_calls
        if enough and self._failed > self._limit.share * self._asked:
            raise WorkError(
                f"judge {self._judge_name} failed {self._failed} of {self._asked} calls, "
                f"the last one with {call.status}: {call.error}; "
                "what was answered is kept, run again to go on"
            )


class AskPool:
    """Asks questions with as many workers as the judge takes requests."""

    def __init__(self, judge: Judge, store: CallStore, limit: FailureLimit) -> None:
        self._judge = judge
        self._store = store
        self._failures = _Failures(judge.identity.name, limit)
        self._locks: dict[str, asyncio.Lock] = {}

    async def run(self, questions: Iterable[Question], on_answer: OnAnswer) -> None:
        """Ask all questions; the first error ends the batch, and what ended before it is kept."""
        queue: asyncio.Queue[Question | None] = asyncio.Queue(
            QUEUE_PER_WORKER * self._judge.concurrency
        )

        async def work() -> None:
            while (question := await queue.get()) is not None:
                on_answer(question, await self._answer(question))
                # A judge that computes never waits, and the other tasks want their turn.
                await asyncio.sleep(0)

        async def feed() -> None:
            for question in questions:
                await queue.put(question)
            for _ in range(self._judge.concurrency):
                await queue.put(None)

        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._judge.aclose)
            await _together([feed, *[work] * self._judge.concurrency])

    async def _answer(self, question: Question) -> StoredCall:
        """The stored answer, or a new one; equal questions of a batch are asked once."""
        key = question.request.sha256(self._judge.identity)
        async with self._locks.setdefault(key, asyncio.Lock()):
            found = self._store.find(question.request)
            return found if found is not None else await self._ask(question)

    async def _ask(self, question: Question) -> StoredCall:
        ended: list[StoredCall] = []

        async def record(reply: JudgeReply) -> None:
            ended.append(self._store.record(question.request, reply, question.latent_id))

        await self._judge.ask(question.request, record)
        self._failures.count(ended[-1])
        return ended[-1]


async def _together(functions: Iterable[Callable[[], object]]) -> None:
    """Await coroutines together; the first error cancels the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for function in functions:
                group.create_task(function())  # type: ignore[arg-type]
    except BaseExceptionGroup as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
