"""Tokens and cost of a study's judge calls, and limits on both.

One ledger counts the calls of all stages and of all runs: it begins with what the database holds.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Engine, func, select

from labeler.errors import WorkError
from labeler.judge.base import (
    Judge,
    JudgeIdentity,
    JudgeReply,
    JudgeRequest,
    OnAttempt,
    UsesParameters,
    ignore_attempt,
)
from labeler.store.engine import read_session
from labeler.store.outcomes import ENDED_STATUSES
from labeler.store.schema import Judge as JudgeRow
from labeler.store.schema import JudgeCall

CHARACTERS_PER_TOKEN = 4.0
"""Characters per token of English prose; used until the server reports counts."""
WEIGHT_OF_PRIOR = 1000.0
"""Weight of the assumed rate, in tokens, against the tokens that servers reported."""
MILLION = 1_000_000
READ_EVERY_S = 2.0
"""Seconds after which calls of other processes are looked for again, where there is a limit."""


class BudgetReachedError(WorkError):
    """The next attempt might exceed a limit on tokens or cost."""

    def __init__(self, spending: Spending) -> None:
        super().__init__(spending)
        self.spending = spending
        self.left = ""
        """What is left to ask and the limit that it needs, once that is planned."""

    def __str__(self) -> str:
        """The message; usage is read late, because calls in flight end after this was raised."""
        how = self.left or "run again with a higher limit to go on"
        return (
            f"stopped at {self.spending.words}: another call might pass the limit; "
            f"what was answered is kept; {how}"
        )


@dataclass(frozen=True)
class Prices:
    """Prices per million tokens, in one currency."""

    prompt_per_million: float
    completion_per_million: float

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Cost of some tokens."""
        prompts = prompt_tokens * self.prompt_per_million
        return (prompts + completion_tokens * self.completion_per_million) / MILLION


@dataclass(frozen=True)
class Usage:
    """Tokens used, and their cost where prices are known."""

    prompt_tokens: float = 0
    completion_tokens: float = 0
    cost: float = 0.0

    @property
    def tokens(self) -> float:
        """Prompt and answer together."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def words(self) -> str:
        """Tokens, and their cost if there is one."""
        cost = f", cost {self.cost:.4g}" if self.cost else ""
        return f"{self.tokens:,.0f} tokens{cost}"

    def less(self, other: Usage) -> Usage:
        """What is left of it without the other."""
        return self + Usage(-other.prompt_tokens, -other.completion_tokens, -other.cost)

    def __add__(self, other: Usage) -> Usage:
        """Both together."""
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cost + other.cost,
        )


@dataclass(frozen=True)
class Limits:
    """Limits on a study, over all its judges, stages and runs; None = no limit."""

    max_tokens: int | None = None
    max_cost: float | None = None

    @property
    def are_set(self) -> bool:
        """Whether there is any."""
        return self.max_tokens is not None or self.max_cost is not None


class Ledger:
    """What the judge calls in some databases have used, by their rows in `judge_call`."""

    def __init__(self, engines: Sequence[Engine], prices: Mapping[str, Prices]) -> None:
        """`prices` are those of the judges by name; calls of another judge have tokens only."""
        self._prices = prices
        self._last_ids = dict.fromkeys(engines, 0)
        self._own: set[tuple[Engine, int]] = set()
        self.unpriced: set[str] = set()
        """Judges with tokens and without prices."""

    def leave_out(self, engine: Engine, run_id: int) -> None:
        """Read no calls of this run: whoever makes them counts them."""
        self._own.add((engine, run_id))

    def read(self) -> Usage:
        """Usage of the calls that were written since the last reading."""
        return sum((self._read(engine) for engine in self._last_ids), Usage())

    def _read(self, engine: Engine) -> Usage:
        own = [run_id for known, run_id in self._own if known is engine]
        prompt, completion = (
            func.sum(func.coalesce(told, estimated, 0)) for told, estimated in _COUNTED
        )
        query = (
            select(JudgeRow.name, func.max(JudgeCall.id), prompt, completion)
            .join(JudgeRow, JudgeRow.id == JudgeCall.judge_id)
            .where(JudgeCall.id > self._last_ids[engine], JudgeCall.run_id.not_in(own))
            .group_by(JudgeRow.name)
        )
        total = Usage()
        with read_session(engine) as session:
            for name, last_id, n_prompt, n_completion in session.execute(query):
                self._last_ids[engine] = max(self._last_ids[engine], last_id)
                prices = self._prices.get(name)
                if prices is None and n_prompt + n_completion > 0:
                    self.unpriced.add(name)
                cost = prices.of(n_prompt, n_completion) if prices is not None else 0.0
                total += Usage(int(n_prompt), int(n_completion), cost)
        return total


_COUNTED = (
    (JudgeCall.prompt_tokens, JudgeCall.estimated_prompt_tokens),
    (JudgeCall.completion_tokens, JudgeCall.estimated_completion_tokens),
)


@dataclass
class CharacterRate:
    """Characters per token, learned from the counts that servers report."""

    characters: float = CHARACTERS_PER_TOKEN * WEIGHT_OF_PRIOR
    tokens: float = WEIGHT_OF_PRIOR

    def learn(self, characters: float, tokens: float) -> None:
        """Count a prompt whose tokens a server reported."""
        self.characters += characters
        self.tokens += tokens

    def tokens_of(self, characters: float) -> float:
        """Estimated tokens of a text of this length."""
        return characters * self.tokens / self.characters


@dataclass
class Spending:
    """Counts what a study has used, and reserves the most that its calls in flight can use.

    A call is sent only if all calls in flight could use their maximum within the limits. The limits
    are exceeded only where prompts have more tokens than estimated, and by what other processes
    have in flight.
    """

    limits: Limits = Limits()
    ledger: Ledger | None = None
    """Tells what earlier runs and other processes have used."""
    own: Usage = Usage()
    """What this process has used."""
    _others: Usage = Usage()
    _read_at: float = -math.inf
    _reserved: dict[int, Usage] = field(default_factory=dict)
    _waiting: list[asyncio.Future[None]] = field(default_factory=list)
    """Attempts waiting for another one to end."""

    @property
    def used(self) -> Usage:
        """What all runs have used, as far as it was read."""
        return self._others + self.own

    def begin_run(self, engine: Engine, run_id: int) -> None:
        """From here on this process counts the calls of a run itself."""
        if self.ledger is not None:
            self.ledger.leave_out(engine, run_id)

    def read_ledger(self) -> None:
        """Count what others have used since the last reading."""
        if self.ledger is not None:
            self._others += self.ledger.read()
            self._read_at = time.monotonic()

    async def reserve(self, key: int, most: Usage) -> None:
        """Reserve the maximum of one attempt, waiting for calls in flight to release theirs.

        Raises BudgetReachedError where the attempt might exceed a limit with nothing in flight.
        """
        if self.limits.are_set and time.monotonic() - self._read_at > READ_EVERY_S:
            self.read_ledger()
        while not self._fits(most):
            if not self._reserved:
                raise BudgetReachedError(self)
            ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(ended)
            await ended
        self._reserved[key] = most

    def _fits(self, most: Usage) -> bool:
        total = sum(self._reserved.values(), self.used) + most
        limits = self.limits
        return (limits.max_tokens is None or total.tokens <= limits.max_tokens) and (
            limits.max_cost is None or total.cost <= limits.max_cost
        )

    @property
    def words(self) -> str:
        """Usage and limits in words."""
        limits, parts = self.limits, []
        if limits.max_tokens is not None:
            parts.append(f"{self.used.tokens:,.0f} of at most {limits.max_tokens:,} tokens")
        if limits.max_cost is not None:
            parts.append(f"a cost of {self.used.cost:.6g} of at most {limits.max_cost:g}")
        return " and ".join(parts)

    def release(self, key: int, spent: Usage | None = None) -> None:
        """End a reservation: the attempt used `spent`, or was not made."""
        self._reserved.pop(key, None)
        if spent is not None:
            self.own += spent
        waiting, self._waiting = self._waiting, []
        for ended in waiting:
            if not ended.done():
                ended.set_result(None)


class MeteredJudge:
    """A judge that stops before a limit is exceeded."""

    def __init__(
        self, judge: Judge, spending: Spending, prices: Prices | None, longest_answer: int
    ) -> None:
        self._judge = judge
        self._spending = spending
        self._prices = prices
        self._longest_answer = longest_answer
        self._rate = CharacterRate()

    @property
    def identity(self) -> JudgeIdentity:
        """Who judges."""
        return self._judge.identity

    @property
    def concurrency(self) -> int:
        """Requests in flight."""
        return self._judge.concurrency

    def use_parameters(self, known: Mapping[str, Any]) -> None:
        """Ask as an earlier run found out."""
        if isinstance(self._judge, UsesParameters):
            self._judge.use_parameters(known)

    async def ask(
        self, request: JudgeRequest, on_attempt: OnAttempt = ignore_attempt
    ) -> JudgeReply:
        """Ask within the limits; BudgetReachedError before an attempt that might exceed them."""

        async def note(reply: JudgeReply) -> None:
            counted = self._counted(request, reply)
            self._spending.release(id(request), self._spent(counted))
            await on_attempt(counted)
            if reply.status not in ENDED_STATUSES:
                await self._reserve(request)

        await self._reserve(request)
        try:
            return await self._judge.ask(request, note)
        finally:
            self._spending.release(id(request))

    async def aclose(self) -> None:
        """Close the judge."""
        await self._judge.aclose()

    async def _reserve(self, request: JudgeRequest) -> None:
        prompt = self._rate.tokens_of(characters_of(request))
        await self._spending.reserve(id(request), self._usage(prompt, self._longest_answer))

    def _counted(self, request: JudgeRequest, reply: JudgeReply) -> JudgeReply:
        """The reply with estimates of the tokens that the server does not tell.

        Text is estimated by its characters. An attempt that may be charged without an answer counts
        with the longest one; an error that the server states costs nothing.
        """
        if reply.prompt_tokens is not None:
            self._rate.learn(characters_of(request), reply.prompt_tokens)
        prompt = completion = 0.0
        if reply.raw is not None or reply.may_be_charged:
            prompt = self._rate.tokens_of(characters_of(request))
            completion = self._longest_answer
        if reply.raw is not None:
            completion = self._rate.tokens_of(len(reply.raw))
        return replace(
            reply,
            estimated_prompt_tokens=None if reply.prompt_tokens is not None else math.ceil(prompt),
            estimated_completion_tokens=None
            if reply.completion_tokens is not None
            else math.ceil(completion),
        )

    def _spent(self, counted: JudgeReply) -> Usage:
        prompt, completion = (
            told if told is not None else estimated or 0
            for told, estimated in (
                (counted.prompt_tokens, counted.estimated_prompt_tokens),
                (counted.completion_tokens, counted.estimated_completion_tokens),
            )
        )
        return self._usage(prompt, completion)

    def _usage(self, prompt: float, completion: float) -> Usage:
        cost = self._prices.of(prompt, completion) if self._prices is not None else 0.0
        return Usage(prompt, completion, cost)


def characters_of(request: JudgeRequest) -> int:
    """Characters of a request's messages."""
    return sum(len(message.content) for message in request.messages)
