"""What calls cost: tokens told by the server, or estimated from characters, and a limit on both."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from labeler.errors import WorkError
from labeler.judge.base import (
    AskedAsWanted,
    Judge,
    JudgeIdentity,
    JudgeReply,
    JudgeRequest,
    OnAttempt,
)
from labeler.judge.base import ignore_attempt as nobody
from labeler.store.outcomes import ENDED_STATUSES

CHARACTERS_A_TOKEN = 4.0
"""English prose under common tokenizers; used until a server's own counts say better."""
WEIGHT_OF_PRIOR = 1000.0
"""Tokens that the assumed characters a token count for beside those that servers told."""
MILLION = 1_000_000


class BudgetReachedError(WorkError):
    """Another attempt might pass a limit on tokens or cost."""

    def __init__(self, spending: Spending) -> None:
        super().__init__(spending)
        self._spending = spending

    def __str__(self) -> str:
        """What was used in the end: calls in flight are waited for after this was raised."""
        return (
            f"stopped at {self._spending.words}: another call might pass the limit; "
            "what was answered is kept, run again to go on"
        )


@dataclass(frozen=True)
class Prices:
    """Price of a million tokens, in any one currency."""

    prompt_per_million: float
    completion_per_million: float

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Cost of some tokens."""
        prompts = prompt_tokens * self.prompt_per_million
        return (prompts + completion_tokens * self.completion_per_million) / MILLION


@dataclass(frozen=True)
class Usage:
    """Tokens, and what they cost where prices are known."""

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
    """How much a command may use, all its judges together; None = no limit."""

    max_tokens: int | None = None
    max_cost: float | None = None


@dataclass
class CharacterRate:
    """Characters a token, learned from what servers told."""

    characters: float = CHARACTERS_A_TOKEN * WEIGHT_OF_PRIOR
    tokens: float = WEIGHT_OF_PRIOR

    def learn(self, characters: float, tokens: float) -> None:
        """Count a prompt whose tokens a server told."""
        self.characters += characters
        self.tokens += tokens

    def tokens_of(self, characters: float) -> float:
        """Estimated tokens of a text of this length."""
        return characters * self.tokens / self.characters


@dataclass
class Spending:
    """Counts what a command used, and keeps room for what its calls in flight may use at most.

    A call is let go only if everything in flight could end at its longest within the limits, so
    that they are not overrun unless prompts have more tokens than estimated.
    """

    limits: Limits
    used: Usage = Usage()
    _reserved: dict[int, Usage] = field(default_factory=dict)
    _waiting: list[asyncio.Future[None]] = field(default_factory=list)
    """Attempts that wait for another to end."""

    async def reserve(self, key: int, most: Usage) -> None:
        """Keep room for one attempt, waiting for calls in flight that leave some of theirs.

        Raises BudgetReachedError where the attempt might pass a limit with nothing in flight.
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
        """What was used of what is allowed."""
        limits, parts = self.limits, []
        if limits.max_tokens is not None:
            parts.append(f"{self.used.tokens:,.0f} of at most {limits.max_tokens:,} tokens")
        if limits.max_cost is not None:
            parts.append(f"a cost of {self.used.cost:.6g} of at most {limits.max_cost:g}")
        return " and ".join(parts)

    def release(self, key: int, spent: Usage | None = None) -> None:
        """An attempt ended, with what it used, or will not be made."""
        self._reserved.pop(key, None)
        if spent is not None:
            self.used += spent
        waiting, self._waiting = self._waiting, []
        for ended in waiting:
            if not ended.done():
                ended.set_result(None)


class MeteredJudge:
    """A judge that stops before a limit is passed."""

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

    def ask_with(self, known: Mapping[str, Any]) -> None:
        """Ask as an earlier run found out."""
        if isinstance(self._judge, AskedAsWanted):
            self._judge.ask_with(known)

    async def ask(self, request: JudgeRequest, on_attempt: OnAttempt = nobody) -> JudgeReply:
        """Ask within the limits; BudgetReachedError before an attempt that might pass them."""

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
        """What the server told, else an estimate where it answered at all."""
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
