"""Commits what a batch learns while it goes on: ended calls at once, what follows from them soon.

The database is written in one thread beside the event loop, so that a locked database delays no
reply, and calls that end together share a transaction.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from labeler.judge.base import JudgeReply
from labeler.judge.calls import CallStore, EndedAttempt, Keep, Keyed, OnAnswer, Question, StoredCall

LINGER_S = 0.06
"""Seconds in which calls that end together are gathered, where many are in flight."""
LINGER_FROM = 32
"""Calls in flight from which it pays to linger."""
KEEP_MANY, KEEP_EVERY_S = 64, 0.25
"""Final calls, or seconds, after which what follows from them is written."""
MOST_PENDING = 4096
"""Calls that wait to be written, above which no further questions are looked up."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class _End:
    """A question whose last attempt has ended, with those that had waited for its answer."""

    asked: Keyed
    questions: Sequence[Question]
    committed: asyncio.Future[None]


@dataclass
class _Pending:
    """What ended since the last commit."""

    attempts: list[EndedAttempt] = field(default_factory=list)
    ends: list[_End] = field(default_factory=list)
    found: list[tuple[Question, StoredCall]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.attempts) + len(self.ends) + len(self.found)


class Recorder:
    """Writes for one batch. Everything but `in_thread`'s functions runs in the event loop."""

    def __init__(
        self, store: CallStore, on_answer: OnAnswer, keep: Keep | None, in_flight: int
    ) -> None:
        self._store = store
        self._on_answer = on_answer
        self._keep = keep
        self._linger_s = LINGER_S if in_flight >= LINGER_FROM else 0.0
        self._pending = _Pending()
        self._latest: dict[str, StoredCall] = {}
        """The newest attempt of each question in hand."""
        self._kept: list[tuple[Question, StoredCall]] = []
        self._kept_at = self._renewed_at = time.monotonic()
        self._wake = asyncio.Event()
        self._written = asyncio.Event()
        self._is_closing = False
        self._is_broken = False
        self._writing: tuple[_Pending, Future[list[StoredCall]]] | None = None
        """What the thread is committing; it goes on when the loop is told to end."""
        self._thread = ThreadPoolExecutor(1, "record")

    def attempt(self, asked: Keyed, reply: JudgeReply) -> None:
        """One attempt ended."""
        self._pending.attempts.append(EndedAttempt(asked, reply))
        self._wake.set()

    def end(self, asked: Keyed, questions: Sequence[Question]) -> asyncio.Future[None]:
        """The last attempt of a question has ended; done once that is committed."""
        committed = asyncio.get_running_loop().create_future()
        self._pending.ends.append(_End(asked, questions, committed))
        self._wake.set()
        return committed

    def found(self, questions: Sequence[Question], call: StoredCall) -> None:
        """The answer was in the database."""
        self._pending.found += [(question, call) for question in questions]
        self._wake.set()

    async def room(self) -> None:
        """Wait while very much is unwritten."""
        while len(self._pending) > MOST_PENDING and not self._is_broken:
            self._written.clear()
            await self._written.wait()

    async def in_thread(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call something that reads or writes the database, in turn with the writes."""
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
        """Nothing more will end."""
        self._is_closing = True
        self._wake.set()

    def close(self) -> None:
        """Write what an early end left unwritten, and let go of every claim."""
        try:
            if not self._is_broken:
                self._write_rest()
        finally:
            self._thread.shutdown()

    async def _next(self) -> None:
        """Until there is something to write, or claims must be renewed."""
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
        self._settle_written()
        if self._keep is not None and self._kept and self._is_time_to_keep():
            kept, self._kept = self._kept, []
            await self.in_thread(self._keep, kept)
            self._kept_at = time.monotonic()
        if time.monotonic() - self._renewed_at > self._store.lease_s / 3:
            await self.in_thread(self._store.renew_claims)
            self._renewed_at = time.monotonic()
        self._written.set()

    def _is_time_to_keep(self) -> bool:
        waited = time.monotonic() - self._kept_at
        return self._is_closing or len(self._kept) >= KEEP_MANY or waited >= KEEP_EVERY_S

    def _record(self, pending: _Pending) -> list[StoredCall]:
        if not pending.attempts and not pending.ends:
            return []
        return self._store.record_all(pending.attempts, [each.asked for each in pending.ends])

    def _settle_written(self) -> None:
        """Tell of the questions that ended, once their calls are committed."""
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
        self._settle_written()
        pending, self._pending = self._pending, _Pending()
        self._writing = (pending, self._thread.submit(self._record, pending))
        self._settle_written()
        if self._keep is not None and self._kept:
            self._thread.submit(self._keep, self._kept).result()
        self._thread.submit(self._store.release_claims).result()
