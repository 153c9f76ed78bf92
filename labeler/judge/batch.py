"""Sends many judge requests concurrently and commits each call as soon as it has ended."""

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
from labeler.judge.base import Judge, JudgeReply, ReadsAhead
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
"""Seconds to wait before a commit, so that one commit writes several ended calls."""
LINGER_FROM = 32
"""Requests in flight at which this wait starts to pay off; with fewer there is no wait."""
KEEP_MANY, KEEP_EVERY_S = 64, 0.25
"""`keep` is called after so many final calls, or after so many seconds."""
MOST_PENDING = 4096
"""Above this number of unwritten results, no further questions are read."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class _EndedQuestion:
    """A request whose last attempt has ended, and all questions that share it."""

    asked: HashedRequest
    questions: Sequence[Question]
    committed: asyncio.Future[None]
    """Done once the call is committed."""


@dataclass
class _Pending:
    """Results that are not committed yet."""

    attempts: list[EndedAttempt] = field(default_factory=list)
    ends: list[_EndedQuestion] = field(default_factory=list)
    found: list[tuple[Question, StoredCall]] = field(default_factory=list)
    """Answers that were already in the database; they are only reported."""

    def __len__(self) -> int:
        return len(self.attempts) + len(self.ends) + len(self.found)


class Recorder:
    """Writes the calls of one batch.

    A single thread does all work on the database, one task after another. Everything else runs in
    the event loop.
    """

    def __init__(
        self, store: CallStore, on_answer: OnAnswer, keep: Keep | None, in_flight: int
    ) -> None:
        self._store = store
        self._on_answer = on_answer
        self._keep = keep
        self._linger_s = LINGER_S if in_flight >= LINGER_FROM else 0.0
        self._pending = _Pending()
        self._latest: dict[str, StoredCall] = {}
        """The newest attempt at each open request, by its key."""
        self._not_kept: list[tuple[Question, StoredCall]] = []
        """Final calls that `keep` has not been given yet."""
        self._last_keep = self._last_renewal = time.monotonic()
        self._wake = asyncio.Event()
        self._written = asyncio.Event()
        self._is_closing = False
        self._is_broken = False
        self._writing: tuple[_Pending, Future[list[StoredCall]]] | None = None
        """The commit in progress; it continues when the event loop is cancelled."""
        self._thread = ThreadPoolExecutor(1, "record")

    def attempt(self, asked: HashedRequest, reply: JudgeReply) -> None:
        """Add an attempt that has ended."""
        self._pending.attempts.append(EndedAttempt(asked, reply))
        self._wake.set()

    def end(self, asked: HashedRequest, questions: Sequence[Question]) -> asyncio.Future[None]:
        """Add a request whose last attempt has ended; the future is done after the commit."""
        committed = asyncio.get_running_loop().create_future()
        self._pending.ends.append(_EndedQuestion(asked, questions, committed))
        self._wake.set()
        return committed

    def found(self, questions: Sequence[Question], call: StoredCall) -> None:
        """Add an answer that was already in the database."""
        self._pending.found += [(question, call) for question in questions]
        self._wake.set()

    async def wait_for_writes(self) -> None:
        """Wait while more than MOST_PENDING results are unwritten."""
        while len(self._pending) > MOST_PENDING and not self._is_broken:
            self._written.clear()
            await self._written.wait()

    async def in_thread(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function that uses the database in the thread that also does the writes."""
        working = self._thread.submit(function, *arguments)
        return await asyncio.shield(asyncio.wrap_future(working))

    async def write_as_they_come(self) -> None:
        """Write results until `finish`; an error of the database or a callback ends the batch."""
        try:
            while not (self._is_closing and not len(self._pending) and not self._not_kept):
                await self._wait_for_results()
                await self._write()
        except Exception:
            self._is_broken = True
            raise

    def finish(self) -> None:
        """Declare that no more results will come."""
        self._is_closing = True
        self._wake.set()

    def close(self) -> None:
        """Write the remaining results and release all claims."""
        try:
            if not self._is_broken:
                self._write_rest()
        finally:
            self._thread.shutdown()

    async def _wait_for_results(self) -> None:
        """Wait until there are results to write, or until `keep` or the claims are due."""
        if not len(self._pending) and not self._is_closing:
            self._wake.clear()
            wait_s = KEEP_EVERY_S if self._not_kept else self._store.lease_s / 3
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
        if self._keep is not None and self._not_kept and self._must_keep():
            kept, self._not_kept = self._not_kept, []
            await self.in_thread(self._keep, kept)
            self._last_keep = time.monotonic()
        if time.monotonic() - self._last_renewal > self._store.lease_s / 3:
            await self.in_thread(self._store.renew_claims)
            self._last_renewal = time.monotonic()
        self._written.set()

    def _must_keep(self) -> bool:
        waited = time.monotonic() - self._last_keep
        return self._is_closing or len(self._not_kept) >= KEEP_MANY or waited >= KEEP_EVERY_S

    def _record(self, pending: _Pending) -> list[StoredCall]:
        if not pending.attempts and not pending.ends:
            return []
        return self._store.record_all(pending.attempts, [each.asked for each in pending.ends])

    def _report_committed(self) -> None:
        """Wait for the commit in progress, then report the questions that it ended."""
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
            self._report([(first, call), *((question, others) for question in rest)])
            if not end.committed.done():
                end.committed.set_result(None)
        self._report(pending.found)

    def _report(self, answers: Sequence[tuple[Question, StoredCall]]) -> None:
        for question, call in answers:
            self._on_answer(question, call)
        if self._keep is not None:
            self._not_kept += answers

    def _write_rest(self) -> None:
        self._report_committed()
        pending, self._pending = self._pending, _Pending()
        self._writing = (pending, self._thread.submit(self._record, pending))
        self._report_committed()
        if self._keep is not None and self._not_kept:
            self._thread.submit(self._keep, self._not_kept).result()
        self._thread.submit(self._store.release_claims).result()


READ_AHEAD = 32
"""Questions that are read, looked up and claimed together, where the judge wants no more."""
MANY = 16
"""From this number of requests in flight on, there are 1.5 workers per request, so that the judge's
server is not idle while some workers wait for a commit."""
MOST_HELD = 4 * READ_AHEAD
"""While more questions than this wait for other processes, no further ones are read."""
POLL_S = 0.2
"""Seconds between two checks of the questions that another process claimed."""
Task = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class FailureLimit:
    """Stops a batch after at least `min_calls` calls, if more than `share` of them failed.

    A request that is too long or refused does not count as a failure of the judge. But if no call
    at all was answered, the batch stops too.
    """

    share: float = 0.2
    min_calls: int = 20


class _InterruptedError(Exception):
    """Ctrl-C in a task: a KeyboardInterrupt itself would end the event loop without clean-up."""


class _Failures:
    """Counts final calls and stops the batch at the limit."""

    def __init__(self, judge_name: str, limit: FailureLimit) -> None:
        self._judge_name = judge_name
        self._limit = limit
        self._asked = 0
        self._failed = self._ok = 0
        self._last: JudgeReply | None = None

    def found(self, call: StoredCall) -> None:
        """Count an answer from the database: it shows that the judge does answer."""
        self._ok += call.status == "ok"

    def count(self, reply: JudgeReply) -> None:
        """Count a final call; WorkError if too many failed."""
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
    """Sends questions to a judge, `judge.concurrency` requests at a time.

    Several processes may share a batch. Each sends the questions that it claims, and reads the
    answers to the other questions from the database.
    """

    def __init__(self, judge: Judge, store: CallStore, limit: FailureLimit) -> None:
        store.prepare(judge)
        self._judge = judge
        self._store = store
        self._failures = _Failures(judge.identity.name, limit)
        self._questions_by_key: dict[str, list[Question]] = {}
        """Open questions by the key of their request; equal questions share one request."""
        self._budget_error: BudgetReachedError | None = None
        self._read_ahead = judge.ahead if isinstance(judge, ReadsAhead) else READ_AHEAD

    async def run(
        self, questions: Iterable[Question], on_answer: OnAnswer, keep: Keep | None = None
    ) -> None:
        """Send all questions.

        `on_answer` is called with each final call after its commit. `keep`, if given, is called
        with many final calls at a time and writes the rows that depend on them; all are written
        when this returns.

        The first error ends the batch and is raised; earlier answers are kept. If a limit of the
        budget is reached, no further requests are sent, and BudgetReachedError is raised once no
        request is in flight.
        """
        in_flight = self._judge.concurrency
        n_workers = in_flight + (in_flight // 2 if in_flight >= MANY else 0)
        slots = asyncio.Semaphore(in_flight)
        queue: asyncio.Queue[HashedRequest | None] = asyncio.Queue(2 * in_flight)
        recorder = Recorder(self._store, on_answer, keep, in_flight)

        async def work() -> None:
            while (asked := await queue.get()) is not None:
                await self._ask(asked, recorder, slots)
                # A judge that computes locally never awaits, so give the other tasks a turn here.
                await asyncio.sleep(0)

        async def feed() -> None:
            await self._feed(iter(questions), queue, recorder)
            for _ in range(n_workers):
                await queue.put(None)

        async def send_all() -> None:
            await _run_concurrently([feed, *[work] * n_workers])
            recorder.finish()

        try:
            with _existing_objects_frozen():
                await _run_concurrently([send_all, recorder.write_as_they_come])
        except _InterruptedError as interruption:
            raise KeyboardInterrupt from interruption
        finally:
            recorder.close()
            await self._judge.aclose()
        if self._budget_error is not None:
            raise self._budget_error

    async def _feed(
        self,
        questions: Iterator[Question],
        queue: asyncio.Queue[HashedRequest | None],
        recorder: Recorder,
    ) -> None:
        """Queue the questions that this process claims; wait for those that others claimed."""
        held: list[HashedRequest] = []
        are_left = True
        while self._budget_error is None and (are_left or held):
            read = [] if len(held) > MOST_HELD else await self._read(questions)
            are_left = bool(read) or len(held) > MOST_HELD
            waiting = [*held, *self._without_duplicates(read)]
            if held and not read:
                await asyncio.sleep(POLL_S)
            reserved = await recorder.in_thread(self._store.reserve, waiting)
            held = []
            if isinstance(self._judge, ReadsAhead):
                claimed = [asked for asked in waiting if asked.key in reserved.claimed]
                self._judge.read_ahead([asked.question.request for asked in claimed])
            for asked in waiting:
                if asked.key in reserved.ended:
                    call = reserved.ended[asked.key]
                    self._failures.found(call)
                    recorder.found(self._questions_by_key.pop(asked.key), call)
                elif asked.key in reserved.claimed:
                    await queue.put(asked)
                else:
                    held.append(asked)
            await recorder.wait_for_writes()

    async def _read(self, questions: Iterator[Question]) -> list[HashedRequest]:
        """Read the next questions; other tasks may run between them."""
        read = []
        for question in islice(questions, self._read_ahead):
            read.append(self._store.hashed(question))
            await asyncio.sleep(0)
        return read

    def _without_duplicates(self, asked: list[HashedRequest]) -> list[HashedRequest]:
        """The first question of each key; equal questions wait for the answer to the first."""
        first = []
        for each in asked:
            others = self._questions_by_key.get(each.key)
            if others is None:
                self._questions_by_key[each.key] = [each.question]
                first.append(each)
            else:
                others.append(each.question)
        return first

    async def _ask(
        self, asked: HashedRequest, recorder: Recorder, slots: asyncio.Semaphore
    ) -> None:
        if self._budget_error is not None:
            return
        replies: list[JudgeReply] = []

        async def note(reply: JudgeReply) -> None:
            replies.append(reply)
            recorder.attempt(asked, reply)

        try:
            async with slots:
                await self._judge.ask(asked.question.request, note)
        except BudgetReachedError as error:
            self._budget_error = error
            if not replies:
                return
        committed = recorder.end(asked, self._questions_by_key.pop(asked.key))
        self._failures.count(replies[-1])
        await committed


@contextmanager
def _existing_objects_frozen() -> Iterator[None]:
    """Exclude the objects that exist now, most of them of libraries, from garbage collection.

    Thousands of prompts trigger many collections: 8% of the CPU time at 256 requests in flight.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def _run_concurrently(functions: Iterable[Task]) -> None:
    """Run coroutines concurrently; the first error cancels the rest and is raised unwrapped."""
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
