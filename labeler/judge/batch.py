"""Sends many requests at a time and commits each call as soon as it has ended."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeVar

from labeler.errors import WorkError
from labeler.judge.base import Judge, JudgeReply
from labeler.judge.budget import BudgetReachedError
from labeler.judge.calls import (
    CallStore,
    EndedAttempt,
    HashedRequest,
    Keep,
    OnAnswer,
    Question,
    StoredCall,
)
from labeler.store.outcomes import ENDED_STATUSES
from labeler.text import one_line

LINGER_S = 0.06
"""Seconds to wait for more ended calls before a commit, where many are in flight."""
LINGER_FROM = 32
"""Calls in flight from which this wait pays off."""
KEEP_MANY, KEEP_EVERY_S = 64, 0.25
"""Final calls, or seconds, after which `keep` is called."""
MOST_PENDING = 4096
"""Unwritten calls above which no further questions are read."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class _End:
    """A question whose last attempt has ended, with the equal questions that waited for it."""

    asked: HashedRequest
    questions: Sequence[Question]
    committed: asyncio.Future[None]


@dataclass
class _Pending:
    """Results since the last commit."""

    attempts: list[EndedAttempt] = field(default_factory=list)
    ends: list[_End] = field(default_factory=list)
    found: list[tuple[Question, StoredCall]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.attempts) + len(self.ends) + len(self.found)


class Recorder:
    """Writes the calls of one batch. Only functions given to `in_thread` leave the event loop."""

    def __init__(
        self, store: CallStore, on_answer: OnAnswer, keep: Keep | None, in_flight: int
    ) -> None:
        self._store = store
        self._on_answer = on_answer
        self._keep = keep
        self._linger_s = LINGER_S if in_flight >= LINGER_FROM else 0.0
        self._pending = _Pending()
        self._latest: dict[str, StoredCall] = {}
        """The newest attempt at each open question."""
        self._kept: list[tuple[Question, StoredCall]] = []
        self._kept_at = self._renewed_at = time.monotonic()
        self._wake = asyncio.Event()
        self._written = asyncio.Event()
        self._is_closing = False
        self._is_broken = False
        self._writing: tuple[_Pending, Future[list[StoredCall]]] | None = None
        """The commit in progress; it goes on when the event loop is cancelled."""
        self._thread = ThreadPoolExecutor(1, "record")

    def attempt(self, asked: HashedRequest, reply: JudgeReply) -> None:
        """One attempt ended."""
        self._pending.attempts.append(EndedAttempt(asked, reply))
        self._wake.set()

    def end(self, asked: HashedRequest, questions: Sequence[Question]) -> asyncio.Future[None]:
        """The last attempt of a question has ended; done once that is committed."""
        committed = asyncio.get_running_loop().create_future()
        self._pending.ends.append(_End(asked, questions, committed))
        self._wake.set()
        return committed

    def found(self, questions: Sequence[Question], call: StoredCall) -> None:
        """The answer was in the database."""
        self._pending.found += [(question, call) for question in questions]
        self._wake.set()

    async def wait_for_writes(self) -> None:
        """Wait while more than MOST_PENDING calls are unwritten."""
        while len(self._pending) > MOST_PENDING and not self._is_broken:
            self._written.clear()
            await self._written.wait()

    async def in_thread(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function that uses the database, in turn with the writes."""
        working = self._thread.submit(function, *arguments)
        return await asyncio.shield(asyncio.wrap_future(working))

    async def write_as_they_come(self) -> None:
        """Write until `finish`; any error of the database or of a callback ends the batch."""
        try:
            while not (self._is_closing and not len(self._pending) and not self._kept):
                await self._next()
                await self._write()
        except Exception:
            self._is_broken = True
            raise

    def finish(self) -> None:
        """Declare that no more calls will end."""
        self._is_closing = True
        self._wake.set()

    def close(self) -> None:
        """Write what is still unwritten, and release every claim."""
        try:
            if not self._is_broken:
                self._write_rest()
        finally:
            self._thread.shutdown()

    async def _next(self) -> None:
        """Wait until there is something to write, or claims must be renewed."""
        if not len(self._pending) and not self._is_closing:
            self._wake.clear()
            wait_s = KEEP_EVERY_S if self._kept else self._store.lease_s / 3
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                return
        if self._linger_s and not self._is_closing:
            await asyncio.sleep(self._linger_s)

    async def _write(self) -> None:
        pending, self._pending = self._pending, _Pending()
        self._writing = (pending, self._thread.submit(self._record, pending))
        await asyncio.shield(asyncio.wrap_future(self._writing[1]))
        self._report_committed()
        if self._keep is not None and self._kept and self._must_keep():
            kept, self._kept = self._kept, []
            await self.in_thread(self._keep, kept)
            self._kept_at = time.monotonic()
        if time.monotonic() - self._renewed_at > self._store.lease_s / 3:
            await self.in_thread(self._store.renew_claims)
            self._renewed_at = time.monotonic()
        self._written.set()

    def _must_keep(self) -> bool:
        waited = time.monotonic() - self._kept_at
        return self._is_closing or len(self._kept) >= KEEP_MANY or waited >= KEEP_EVERY_S

    def _record(self, pending: _Pending) -> list[StoredCall]:
        if not pending.attempts and not pending.ends:
            return []
        return self._store.record_all(pending.attempts, [each.asked for each in pending.ends])

    def _report_committed(self) -> None:
        """Report the questions that ended, once their calls are committed."""
        if self._writing is None:
            return
        pending, working = self._writing
        calls = working.result()
        self._writing = None
        for each, call in zip(pending.attempts, calls, strict=True):
            self._latest[each.asked.key] = call
        for end in pending.ends:
            call = self._latest.pop(end.asked.key)
            others = replace(call, was_asked=False)
            first, *rest = end.questions
            self._tell([(first, call), *((question, others) for question in rest)])
            if not end.committed.done():
                end.committed.set_result(None)
        self._tell(pending.found)

    def _tell(self, answers: Sequence[tuple[Question, StoredCall]]) -> None:
        for question, call in answers:
            self._on_answer(question, call)
        if self._keep is not None:
            self._kept += answers

    def _write_rest(self) -> None:
        self._report_committed()
        pending, self._pending = self._pending, _Pending()
        self._writing = (pending, self._thread.submit(self._record, pending))
        self._report_committed()
        if self._keep is not None and self._kept:
            self._thread.submit(self._keep, self._kept).result()
        self._thread.submit(self._store.release_claims).result()


READ_AHEAD = 32
"""Questions that are read, looked up and claimed at a time."""
MANY = 16
"""Requests in flight from which half as many workers again run, so that the judge's server is
not idle while others wait for commits."""
MOST_HELD = 4 * READ_AHEAD
"""Questions claimed by other workers above which no further ones are read."""
POLL_S = 0.2
"""Seconds between two checks of the questions that another worker claimed."""
Task = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class FailureLimit:
    """Stops a batch where more than `share` of at least `min_calls` calls failed.

    A request that is too long, or refused, is not a failure of the judge. Where the first
    `min_calls` all ended that way, the batch stops nevertheless.
    """

    share: float = 0.2
    min_calls: int = 20


class _InterruptedError(Exception):
    """Ctrl-C inside a task: a KeyboardInterrupt would end the event loop before the clean-up."""


class _Failures:
    """Counts final calls and stops the batch at the limit."""

    def __init__(self, judge_name: str, limit: FailureLimit) -> None:
        self._judge_name = judge_name
        self._limit = limit
        self._asked = 0
        self._failed = self._ok = 0
        self._last: JudgeReply | None = None

    def found(self, call: StoredCall) -> None:
        """Count an answer that another run or worker got: the judge does answer."""
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


class BatchRunner:
    """Sends questions with as many requests in flight as the judge takes.

    Several processes may share a batch: each sends the questions that it claims and reads the
    others' answers from the database.
    """

    def __init__(self, judge: Judge, store: CallStore, limit: FailureLimit) -> None:
        store.prepare(judge)
        self._judge = judge
        self._store = store
        self._failures = _Failures(judge.identity.name, limit)
        self._equal: dict[str, list[Question]] = {}
        """Open questions, by the key of the call that they share."""
        self._stop: BudgetReachedError | None = None

    async def run(
        self, questions: Iterable[Question], on_answer: OnAnswer, keep: Keep | None = None
    ) -> None:
        """Send all questions. The first error ends the batch; earlier answers are kept.

        `on_answer` is called with each final call after its commit. `keep`, if given, writes the
        rows that follow from final calls, many at a time; all are written when this returns.
        Where a limit was reached, raises BudgetReachedError once no call is in flight.
        """
        in_flight = self._judge.concurrency
        n_workers = in_flight + (in_flight // 2 if in_flight >= MANY else 0)
        slots = asyncio.Semaphore(in_flight)
        queue: asyncio.Queue[HashedRequest | None] = asyncio.Queue(2 * in_flight)
        recorder = Recorder(self._store, on_answer, keep, in_flight)

        async def work() -> None:
            while (asked := await queue.get()) is not None:
                await self._ask(asked, recorder, slots)
                # A judge that computes locally never awaits: let the other tasks run.
                await asyncio.sleep(0)

        async def feed() -> None:
            await self._feed(iter(questions), queue, recorder)
            for _ in range(n_workers):
                await queue.put(None)

        async def ask_all() -> None:
            await _together([feed, *[work] * n_workers])
            recorder.finish()

        try:
            with _existing_objects_not_collected():
                await _together([ask_all, recorder.write_as_they_come])
        except _InterruptedError as interruption:
            raise KeyboardInterrupt from interruption
        finally:
            recorder.close()
            await self._judge.aclose()
        if self._stop is not None:
            raise self._stop

    async def _feed(
        self,
        questions: Iterator[Question],
        queue: asyncio.Queue[HashedRequest | None],
        recorder: Recorder,
    ) -> None:
        """Queue the questions that this worker claims; wait for those that others claimed."""
        held: list[HashedRequest] = []
        are_left = True
        while self._stop is None and (are_left or held):
            read = [] if len(held) > MOST_HELD else await self._read(questions)
            are_left = bool(read) or len(held) > MOST_HELD
            waiting = [*held, *self._without_duplicates(read)]
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
            await recorder.wait_for_writes()

    async def _read(self, questions: Iterator[Question]) -> list[HashedRequest]:
        """Read some questions; other tasks run after each."""
        read = []
        for question in islice(questions, READ_AHEAD):
            read.append(self._store.hashed(question))
            await asyncio.sleep(0)
        return read

    def _without_duplicates(self, asked: list[HashedRequest]) -> list[HashedRequest]:
        """The first question of each key; equal ones wait for its answer."""
        first = []
        for each in asked:
            others = self._equal.get(each.key)
            if others is None:
                self._equal[each.key] = [each.question]
                first.append(each)
            else:
                others.append(each.question)
        return first

    async def _ask(
        self, asked: HashedRequest, recorder: Recorder, slots: asyncio.Semaphore
    ) -> None:
        if self._stop is not None:
            return
        replies: list[JudgeReply] = []

        async def note(reply: JudgeReply) -> None:
            replies.append(reply)
            recorder.attempt(asked, reply)

        try:
            async with slots:
                await self._judge.ask(asked.question.request, note)
        except BudgetReachedError as stop:
            self._stop = stop
            if not replies:
                return
        committed = recorder.end(asked, self._equal.pop(asked.key))
        self._failures.count(replies[-1])
        await committed


@contextmanager
def _existing_objects_not_collected() -> Iterator[None]:
    """Exclude existing objects from garbage collection: most of them belong to libraries.

    Thousands of prompts trigger many collections, measured as 8% of the CPU at 256 in flight.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def _together(functions: Iterable[Task]) -> None:
    """Await coroutines together; the first error cancels the rest and is raised unwrapped."""
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
