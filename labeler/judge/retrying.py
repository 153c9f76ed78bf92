"""When a request is made again, and after how long."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

from tenacity import AsyncRetrying, RetryCallState, retry_if_result, wait_exponential, wait_random

from labeler.judge.base import JudgeReply

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
YEAR_S = 365 * 86400.0
Again = Literal["no", "transport", "answer", "away", "wait", "parameters"]
"""Why a request would be made again; no tries are `away`: the server was not there, `wait`: it
asked for time, and `parameters`: it wants to be asked in another way."""


@dataclass(frozen=True)
class Ended:
    """An attempt that ended."""

    reply: JudgeReply
    again: Again
    is_waited_for: bool = False
    """The endpoint rests before its next request, so that this one need not wait by itself."""
    stops_the_batch: bool = False
    advice: str = ""
    """What is said after the server's words where the batch stops."""
    unpaid: bool = False
    """No server saw the request."""


def again(reply: JudgeReply) -> Again:
    """Unusable answers are asked for again; a refusal is an answer."""
    return "answer" if reply.status in ("parse_error", "truncated") else "no"


def is_worth_retrying(status_code: int) -> bool:
    """Whether a server that answers with this HTTP status may answer differently later."""
    return status_code in (408, 429) or status_code >= 500


def retry_after_s(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds of a Retry-After header, given in seconds or as an HTTP date; None without one."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            moment = parsedate_to_datetime(header)
        except ValueError:
            return None
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    if seconds != seconds:
        return None
    return min(max(seconds, 0.0), YEAR_S)


def duration_words(seconds: float) -> str:
    """A length of time in its largest fitting unit."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def retry_policy(
    max_attempts: int, max_answers: int, sleep: Callable[[float], Awaitable[None]]
) -> AsyncRetrying:
    """Retry the awaiting coroutine by its result; the last result is returned, never raised.

    The two kinds of failure have a limit each: `max_attempts` for transport, `max_answers` for
    answers that are unusable. A server that is away, or asked for time, has no limit here: the
    judge sets it.
    """
    limits: dict[Again, int] = {"transport": max_attempts, "answer": max_answers}
    failures: Counter[Again] = Counter()
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


def _ended(state: RetryCallState) -> Ended:
    if state.outcome is None:
        raise RuntimeError("an attempt is judged before it ended")
    ended: Ended = state.outcome.result()
    return ended
