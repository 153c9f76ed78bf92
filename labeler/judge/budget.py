"""Tokens and cost of judge calls, as the server reports or as estimated, and limits on both."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
from labeler.store.outcomes import ENDED_STATUSES

CHARACTERS_PER_TOKEN = 4.0
"""Characters per token of English prose; used until the server reports counts."""
WEIGHT_OF_PRIOR = 1000.0
"""Weight of the assumed rate, in tokens, against the tokens that servers reported."""
MILLION = 1_000_000


class BudgetReachedError(WorkError):
    """The next attempt might exceed a limit on tokens or cost."""

    def __init__(self, spending: Spending) -> None:
        super().__init__(spending)
        self._spending = spending

    def __str__(self) -> str:
        """The message; usage is read late, because calls in flight end after this was raised."""
        return (
            f"stopped at {self._spending.words}: another call might pass the limit; "
            "what was answered is kept, run again to go on"
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

    def __add__(self, other: Usage) -> Usage:
        """Both together."""
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cost + other.cost,
        )


@dataclass(frozen=True)
class Limits:
    """Limits on one command, over all its judges; None = no limit."""

    max_tokens: int | None = None
    max_cost: float | None = None


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
    """Counts what a command has used, and reserves the most that its calls in flight can use.

    A call is sent only if all calls in flight could use their maximum within the limits. The limits
    are exceeded only where prompts have more tokens than estimated.
    """

    limits: Limits
    used: Usage = Usage()
    _reserved: dict[int, Usage] = field(default_factory=dict)
    _waiting: list[asyncio.Future[None]] = field(default_factory=list)
    """Attempts waiting for another one to end."""

    async def reserve(self, key: int, most: Usage) -> None:
        """Reserve the maximum of one attempt, waiting for calls in flight to release theirs.

        Raises BudgetReachedError where the attempt might exceed a limit with nothing in flight.
        """
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
            self.used += spent
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
            self._spending.release(id(request), self._spent(request, reply))
            await on_attempt(reply)
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

    def _spent(self, request: JudgeRequest, reply: JudgeReply) -> Usage:
        """Usage as the server reports it, else an estimate where it answered at all."""
        prompt, completion = reply.prompt_tokens, reply.completion_tokens
        if prompt is not None:
            self._rate.learn(characters_of(request), prompt)
        answered = reply.raw is not None
        estimate = self._rate.tokens_of(characters_of(request)) if answered else 0.0
        words = self._rate.tokens_of(len(reply.raw)) if reply.raw is not None else 0.0
        return self._usage(
            prompt if prompt is not None else estimate,
            completion if completion is not None else words,
        )

    def _usage(self, prompt: float, completion: float) -> Usage:
        cost = self._prices.of(prompt, completion) if self._prices is not None else 0.0
        return Usage(prompt, completion, cost)


def characters_of(request: JudgeRequest) -> int:
    """Characters of a request's messages."""
    return sum(len(message.content) for message in request.messages)
