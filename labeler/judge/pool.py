"""Asks many questions at a time: workers on a bounded queue, answers recorded as they come."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from labeler.errors import WorkError
from labeler.judge.base import Judge, JudgeReply
from labeler.judge.calls import CallStore, Keep, Keyed, OnAnswer, Question, StoredCall
from labeler.judge.recorder import Recorder
from labeler.judge.spending import BudgetReachedError
from labeler.store.outcomes import ENDED_STATUSES
from labeler.text import one_line

READ_AHEAD = 32
"""Questions that are made, looked up and claimed at a time."""
MANY = 16
"""Requests in flight from which a quarter more workers wait for commits, so that the judge's
server is not idle meanwhile."""
MOST_HELD = 4 * READ_AHEAD
"""Questions in other workers' hands above which no further ones are made."""
POLL_S = 0.2
"""Seconds between two looks at what another worker has in hand."""
Task = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class FailureLimit:
    """When a batch is given up: more than `share` of at least `min_calls` calls failed.

    A request that is too long, or refused, is no failure of the judge; where the first `min_calls`
    all ended so, the batch is given up nevertheless.
    """

    share: float = 0.2
    min_calls: int = 20


class _InterruptedError(Exception):
    """Ctrl-C inside a task: as what it is, it would end the event loop before the clean-up."""


class _Failures:
    """Counts calls that ended for good, and gives up."""

    def __init__(self, judge_name: str, limit: FailureLimit) -> None:
        self._judge_name = judge_name
        self._limit = limit
        self._asked = 0
        self._failed = self._ok = 0
        self._last: JudgeReply | None = None

    def found(self, call: StoredCall) -> None:
        """Another run or worker was answered: the judge does answer."""
        self._ok += call.status == "ok"

    def count(self, reply: JudgeReply) -> None:
        """Count one; WorkError where too many failed."""
        self._asked += 1
        self._ok += reply.status == "ok"
        self._failed += reply.status not in ENDED_STATUSES
        self._last = reply if reply.status != "ok" else self._last
        if self._last is None or self._asked < self._limit.min_calls:
            return
        words = f"{self._last.status}: {one_line(self._last.error or 'no words')}"
        if self._failed > self._limit.share * self._asked:
            raise WorkError(
                f"{self._failed} of {self._asked} calls of {self._judge_name} failed, the last of "
                f"these with {words}; what was answered is kept, run again to go on"
            )
        if not self._ok:
            raise WorkError(
                f"none of {self._asked} calls of {self._judge_name} was answered, the last ended "
                f"with {words}; give the judge a longer context or another model, and change "
                "judge.max_tokens or judge.model, so that it is asked again"
            )


class AskPool:
    """Asks questions with as many workers as the judge takes requests.

    Several processes may share a batch: each asks what it claims and takes the others' answers
    from the database.
    """

    def __init__(self, judge: Judge, store: CallStore, limit: FailureLimit) -> None:
        store.prepare(judge)
        self._judge = judge
        self._store = store
        self._failures = _Failures(judge.identity.name, limit)
        self._equal: dict[str, list[Question]] = {}
        """Questions in hand, by the key of their one call."""
        self._stop: BudgetReachedError | None = None

    async def run(
        self, questions: Iterable[Question], on_answer: OnAnswer, keep: Keep | None = None
    ) -> None:
        """Ask all questions; the first error ends the batch, and what ended before it is kept.

        `on_answer` is told of each final call after its commit; `keep`, if given, writes what
        follows from final calls, many at a time, and has written all when this returns.
        Raises BudgetReachedError once everything in flight has ended, where a limit was reached.
        """
        in_flight = self._judge.concurrency
        n_workers = in_flight + (in_flight // 2 if in_flight >= MANY else 0)
        room = asyncio.Semaphore(in_flight)
        queue: asyncio.Queue[Keyed | None] = asyncio.Queue(2 * in_flight)
        recorder = Recorder(self._store, on_answer, keep, in_flight)

        async def work() -> None:
            while (asked := await queue.get()) is not None:
                await self._ask(asked, recorder, room)
                # A judge that computes never waits, and the other tasks want their turn.
                await asyncio.sleep(0)

        async def feed() -> None:
            await self._feed(iter(questions), queue, recorder)
            for _ in range(n_workers):
                await queue.put(None)

        async def ask_all() -> None:
            await _together([feed, *[work] * n_workers])
            recorder.finish()

        try:
            with _older_objects_left_out_of_collection():
                await _together([ask_all, recorder.write_as_they_come])
        except _InterruptedError as interruption:
            raise KeyboardInterrupt from interruption
        finally:
            recorder.close()
            await self._judge.aclose()
        if self._stop is not None:
            raise self._stop

    async def _feed(
        self, questions: Iterator[Question], queue: asyncio.Queue[Keyed | None], recorder: Recorder
    ) -> None:
        """Queue what is this worker's to ask; wait for what others have in hand."""
        held: list[Keyed] = []
        are_left = True
        while self._stop is None and (are_left or held):
            read = [] if len(held) > MOST_HELD else await self._read(questions)
            are_left = bool(read) or len(held) > MOST_HELD
            waiting = [*held, *self._first_of_equals(read)]
            if held and not read:
                await asyncio.sleep(POLL_S)
            reserved = await recorder.in_thread(self._store.reserve, waiting)
            held = []
            for asked in waiting:
                if asked.key in reserved.ended:
                    call = reserved.ended[asked.key]
                    self._failures.found(call)
                    recorder.found(self._equal.pop(asked.key), call)
                elif asked.key in reserved.claimed:
                    await queue.put(asked)
                else:
                    held.append(asked)
            await recorder.room()

    async def _read(self, questions: Iterator[Question]) -> list[Keyed]:
        """Make some questions; replies that arrive meanwhile have their turn after each."""
        read = []
        for question in islice(questions, READ_AHEAD):
            read.append(self._store.keyed(question))
            await asyncio.sleep(0)
        return read

    def _first_of_equals(self, asked: list[Keyed]) -> list[Keyed]:
        """Questions whose call nobody makes yet; the others wait for the one that does."""
        first = []
        for each in asked:
            others = self._equal.get(each.key)
            if others is None:
                self._equal[each.key] = [each.question]
                first.append(each)
            else:
                others.append(each.question)
        return first

    async def _ask(self, asked: Keyed, recorder: Recorder, room: asyncio.Semaphore) -> None:
        if self._stop is not None:
            return
        ended: list[JudgeReply] = []

        async def note(reply: JudgeReply) -> None:
            ended.append(reply)
            recorder.attempt(asked, reply)

        try:
            async with room:
                await self._judge.ask(asked.question.request, note)
        except BudgetReachedError as stop:
            self._stop = stop
            if not ended:
                return
        committed = recorder.end(asked, self._equal.pop(asked.key))
        self._failures.count(ended[-1])
        await committed


@contextmanager
def _older_objects_left_out_of_collection() -> Iterator[None]:
    """Spare the garbage collector what was there before: libraries are most of what it visits.

    Thousands of prompts make it look often; measured at 256 in flight, 8% of the CPU.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def _together(functions: Iterable[Task]) -> None:
    """Await coroutines together; the first error cancels the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for function in functions:
                group.create_task(_interruptible(function))
    except BaseExceptionGroup as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


async def _interruptible(function: Task) -> None:
    try:
        await function()
    except KeyboardInterrupt as interruption:
        raise _InterruptedError from interruption
