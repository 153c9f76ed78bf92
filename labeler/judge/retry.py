"""When a request is sent again, and how long to wait before."""

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
"""Why a request is sent again. `away` (the server was not there), `wait` (it asked for time) and
`parameters` (it wants other parameters) do not count as attempts."""


@dataclass(frozen=True)
class AttemptResult:
    """Result of one attempt."""

    reply: JudgeReply
    retry_reason: RetryReason
    is_waited_for: bool = False
    """The endpoint rests before its next request, so this request need not back off as well."""
    stops_the_batch: bool = False
    advice: str = ""
    """Appended to the server's message where the batch stops."""
    unpaid: bool = False
    """No server saw the request."""


def retry_reason_of(reply: JudgeReply) -> RetryReason:
    """`answer` for an unusable answer; a refusal is an answer."""
    return "answer" if reply.status in ("parse_error", "truncated") else "no"


def retry_policy(
    max_attempts: int, max_answers: int, sleep: Callable[[float], Awaitable[None]]
) -> AsyncRetrying:
    """Retry a coroutine by its result; returns the last result and never raises.

    Each kind of failure has its own limit: `max_attempts` for transport errors, `max_answers` for
    unusable answers. For a server that is away, or asked for time, the judge sets the limit.
    """
    limits: dict[RetryReason, int] = {"transport": max_attempts, "answer": max_answers}
    failures: Counter[RetryReason] = Counter()
    backoff = wait_exponential(FIRST_WAIT_S, LONGEST_WAIT_S) + wait_random(0, FIRST_WAIT_S)

    def is_over(state: RetryCallState) -> bool:
        reason = _result_of(state).retry_reason
        failures[reason] += 1
        return failures[reason] >= limits.get(reason, math.inf)

    def wait(state: RetryCallState) -> float:
        result = _result_of(state)
        if result.is_waited_for or result.retry_reason != "transport":
            return 0.0
        return float(backoff(state))

    return AsyncRetrying(
        retry=retry_if_result(lambda result: result.retry_reason != "no"),
        stop=is_over,
        wait=wait,
        sleep=sleep,
        retry_error_callback=_result_of,
    )


def _result_of(state: RetryCallState) -> AttemptResult:
    if state.outcome is None:
        raise RuntimeError("the attempt has no result yet")
    result: AttemptResult = state.outcome.result()
    return result


ANNOUNCED_FROM_S = 5.0
"""Shorter waits, in seconds, are not announced."""
_LOGGER = logging.getLogger(__name__)


@dataclass
class RetryAfter:
    """The waits that one server asked for since its last answer."""

    until: float = 0.0
    """Time, on the judge's clock, before which it takes no request."""
    since: float | None = None
    """When it first asked for time; None where it has answered since."""
    n_waits: int = 0
    """Waits in a row, without an answer in between."""
    longest_s: float = 0.0
    """Longest single wait asked for."""
    announced_until: float = 0.0
    """End of the wait that was announced last."""

    def asked(self, now: float, seconds: float) -> None:
        """It asks for time; a server that asks repeatedly gets requests less and less often."""
        if now >= self.until:
            self.n_waits += 1
        self.longest_s = max(self.longest_s, seconds)
        if self.n_waits > 1:
            seconds = max(seconds, min(FIRST_WAIT_S * 2 ** min(self.n_waits, 10), LONGEST_WAIT_S))
        self.since = now if self.since is None else self.since
        self.until = max(self.until, now + seconds)

    def answered(self, now: float) -> None:
        """It answered. An answer to a request sent before the wait does not end the wait."""
        if now >= self.until:
            self.since, self.n_waits, self.longest_s = None, 0, 0.0

    @property
    def needed_s(self) -> float:
        """Seconds asked for in a single wait, or in several waits in a row.

        Requests in flight together are told to wait one after the other; they count as one wait.
        """
        if self.since is None or self.n_waits == 1:
            return self.longest_s
        return max(self.until - self.since, self.longest_s)

    def announce(self, url: str, now: float) -> None:
        """Warn of a wait once, not for each request that is told to wait."""
        left = self.until - now
        if left < ANNOUNCED_FROM_S or self.until < self.announced_until + ANNOUNCED_FROM_S:
            return
        self.announced_until = self.until
        end = (datetime.now().astimezone() + timedelta(seconds=left)).strftime("%H:%M")
        _LOGGER.warning(
            "judge %s: asks to wait %s (Retry-After); waiting until %s",
            url,
            duration_words(left),
            end,
        )
