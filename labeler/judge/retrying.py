"""When a request is made again, and after how long."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from tenacity import AsyncRetrying, RetryCallState, retry_if_result, wait_exponential, wait_random

from labeler.judge.base import JudgeReply

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
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
