"""What calls cost: tokens told by the server, or estimated from characters, and a limit on both."""

from __future__ import annotations

from dataclasses import dataclass

from labeler.judge.base import JudgeReply, JudgeRequest

CHARACTERS_A_TOKEN = 4.0
"""English prose under common tokenizers; used until a server's own counts say better."""
MILLION = 1_000_000


@dataclass(frozen=True)
class Prices:
    """Price of a million tokens, in any one currency."""

    prompt_per_million: float
    completion_per_million: float

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Cost of some tokens."""
        spent = (
            prompt_tokens * self.prompt_per_million
            + completion_tokens * self.completion_per_million
        )
        return spent / MILLION


@dataclass(frozen=True)
class Limits:
    """How much a batch may use; None = no limit."""

    max_tokens: int | None = None
    """Prompt and answer tokens together."""
    max_cost: float | None = None
    prices: Prices | None = None

    def __post_init__(self) -> None:
        """Refuse a limit on cost without prices."""
        if self.max_cost is not None and self.prices is None:
            raise ValueError("a limit on cost needs prices")


def characters_of(request: JudgeRequest) -> int:
    """Characters of a request's messages."""
    return sum(len(message.content) for message in request.messages)


class Spending:
    """Counts what a batch used and reserves what its calls in flight may use at most.

    A call is let go only if everything in flight could end at its longest within the limits, so
    that they are not overrun unless a prompt has more tokens than estimated.
    """

    def __init__(self, limits: Limits, longest_answer: int, characters_a_token: float) -> None:
        self._limits = limits
        self._longest_answer = longest_answer
        self._characters, self._prompt_tokens_of_them = characters_a_token * 1000, 1000.0
        self._reserved: dict[int, float] = {}
        self.prompt_tokens = 0
        self.completion_tokens = 0

    @property
    def tokens(self) -> int:
        """Tokens used so far."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def cost(self) -> float | None:
        """Cost so far; None without prices."""
        prices = self._limits.prices
        return prices.of(self.prompt_tokens, self.completion_tokens) if prices else None

    def admit(self, request: JudgeRequest) -> bool:
        """Reserve room for one attempt; False where it might pass a limit."""
        estimate = self._estimate(request)
        prompt = self.prompt_tokens + sum(self._reserved.values()) + estimate
        answers = self.completion_tokens + (len(self._reserved) + 1) * self._longest_answer
        limits = self._limits
        if limits.max_tokens is not None and prompt + answers > limits.max_tokens:
            return False
        cost = limits.prices.of(prompt, answers) if limits.prices is not None else 0.0
        if limits.max_cost is not None and cost > limits.max_cost:
            return False
        self._reserved[id(request)] = estimate
        return True

    def spend(self, request: JudgeRequest, reply: JudgeReply) -> None:
        """Count what an attempt used: the server's figures, else the estimate where it answered."""
        estimate = self._reserved.pop(id(request), self._estimate(request))
        if reply.prompt_tokens is not None:
            self.prompt_tokens += reply.prompt_tokens
            self._characters += characters_of(request)
            self._prompt_tokens_of_them += reply.prompt_tokens
        elif reply.raw is not None:
            self.prompt_tokens += round(estimate)
        if reply.completion_tokens is not None:
            self.completion_tokens += reply.completion_tokens
        elif reply.raw is not None:
            self.completion_tokens += round(len(reply.raw) / CHARACTERS_A_TOKEN)

    def release(self, request: JudgeRequest) -> None:
        """Give up the room of an attempt that will not be made."""
        self._reserved.pop(id(request), None)

    def _estimate(self, request: JudgeRequest) -> float:
        return characters_of(request) * self._prompt_tokens_of_them / self._characters
