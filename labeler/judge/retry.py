"""When a request is worth asking again, and how long to wait for that."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from tenacity import AsyncRetrying, RetryCallState, retry_if_result, wait_exponential, wait_random

from labeler.http.errors import duration_words
from labeler.judge.base import JudgeReply

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
RetryReason = Literal["no", "transport", "answer", "away", "wait", "parameters"]
"""Why a request would be made again; no tries are `away`: the server was not there, `wait`: it
asked for time, and `parameters`: it wants to be asked in another way."""


@dataclass(frozen=True)
class AttemptResult:
    """An attempt that ended."""

    reply: JudgeReply
    again: RetryReason
    is_waited_for: bool = False
    """The endpoint rests before its next request, so that this one need not wait by itself."""
    stops_the_batch: bool = False
    advice: str = ""
    """What is said after the server's words where the batch stops."""
    unpaid: bool = False
    """No server saw the request."""


def again(reply: JudgeReply) -> RetryReason:
    """Unusable answers are asked for again; a refusal is an answer."""
    return "answer" if reply.status in ("parse_error", "truncated") else "no"


def retry_policy(
    max_attempts: int, max_answers: int, sleep: Callable[[float], Awaitable[None]]
) -> AsyncRetrying:
    """Retry the awaiting coroutine by its result; the last result is returned, never raised.

    The two kinds of failure have a limit each: `max_attempts` for transport, `max_answers` for
    answers that are unusable. A server that is away, or asked for time, has no limit here: the
    judge sets it.
    """
    limits: dict[RetryReason, int] = {"transport": max_attempts, "answer": max_answers}
    failures: Counter[RetryReason] = Counter()
    backoff = wait_exponential(FIRST_WAIT_S, LONGEST_WAIT_S) + wait_random(0, FIRST_WAIT_S)

    def is_over(state: RetryCallState) -> bool:
        reason = _ended(state).again
        failures[reason] += 1
        return failures[reason] >= limits.get(reason, math.inf)

    def wait(state: RetryCallState) -> float:
        ended = _ended(state)
        if ended.is_waited_for or ended.again != "transport":
            return 0.0
        return float(backoff(state))

    return AsyncRetrying(
        retry=retry_if_result(lambda ended: ended.again != "no"),
        stop=is_over,
        wait=wait,
        sleep=sleep,
        retry_error_callback=_ended,
    )


def _ended(state: RetryCallState) -> AttemptResult:
    if state.outcome is None:
        raise RuntimeError("an attempt is judged before it ended")
    ended: AttemptResult = state.outcome.result()
    return ended


SAID_FROM_S = 5.0
"""Seconds of a wait below which nothing is said of it."""
_LOGGER = logging.getLogger(__name__)


@dataclass
class RetryAfter:
    """What one server asked for since its last answer."""

    until: float = 0.0
    """Moment of the judge's clock before which it takes no request."""
    since: float | None = None
    """When it first asked for time; None where it has answered since."""
    n_waits: int = 0
    """Waits in a row, without an answer in between."""
    longest_s: float = 0.0
    """Most seconds asked for at once."""
    said_until: float = 0.0
    """End of the wait that people were told of."""

    def asked(self, now: float, seconds: float) -> None:
        """It asks for time; one that asks again and again is asked less and less often."""
        if now >= self.until:
            self.n_waits += 1
        self.longest_s = max(self.longest_s, seconds)
        if self.n_waits > 1:
            seconds = max(seconds, min(FIRST_WAIT_S * 2 ** min(self.n_waits, 10), LONGEST_WAIT_S))
        self.since = now if self.since is None else self.since
        self.until = max(self.until, now + seconds)

    def answered(self, now: float) -> None:
        """It answered; a request that was on its way when it asked for time ends no wait."""
        if now >= self.until:
            self.since, self.n_waits, self.longest_s = None, 0, 0.0

    @property
    def needed_s(self) -> float:
        """Seconds asked for: at once, or by several waits in a row, the present one included.

        Requests in flight together are told to wait one after the other; that is one wait.
        """
        if self.since is None or self.n_waits == 1:
            return self.longest_s
        return max(self.until - self.since, self.longest_s)

    def say(self, url: str, now: float) -> None:
        """Tell people of a wait once, not for each request that is told to wait."""
        left = self.until - now
        if left < SAID_FROM_S or self.until < self.said_until + SAID_FROM_S:
            return
        self.said_until = self.until
        end = (datetime.now().astimezone() + timedelta(seconds=left)).strftime("%H:%M")
        _LOGGER.warning(
            "judge %s: asks to wait %s (Retry-After); waiting until %s",
            url,
            duration_words(left),
            end,
        )
