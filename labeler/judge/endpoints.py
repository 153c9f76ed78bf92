"""A judge's servers: which gets the next request, which must rest, when a request is repeated."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from tenacity import AsyncRetrying, RetryCallState, retry_if_result, wait_exponential, wait_random

from labeler.http.client import Connection, Endpoint, duration_words, tls_for
from labeler.judge.base import JudgeReply

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
RetryReason = Literal["no", "transport", "answer", "away", "wait", "parameters"]
"""Why a request is sent again. `away` (the server was not there), `wait` (it asked for time) and
`parameters` (it wants other parameters) do not count as attempts."""
ANNOUNCED_FROM_S = 5.0
"""Shorter waits, in seconds, are not announced."""
_LOGGER = logging.getLogger(__name__)
Sleep = Callable[[float], Awaitable[None]]
Clock = Callable[[], float]
FAILURES_UNTIL_DOWN = 3
"""Failures in a row, without an answer in between, after which a server counts as down."""
FIRST_REST_S, LONGEST_REST_S = 0.5, 5.0
"""Seconds until a server that is down is tried again, doubled with each failed try."""


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


@dataclass
class _Server:
    """State of one endpoint."""

    endpoint: Endpoint
    free: list[Connection]
    rest_until: float = 0.0
    failures: int = 0
    rests: int = 0
    """Rests in a row, without an answer in between."""
    is_down: bool = False
    is_tried: bool = False
    """A request is on its way to find out whether the server is back."""
    last_answer_at: float | None = None
    retry_after: RetryAfter = field(default_factory=RetryAfter)

    def takes_requests(self, now: float) -> bool:
        """Whether a request may be sent now, given a free connection."""
        return now >= self.free_at and not (self.is_down and self.is_tried)

    @property
    def free_at(self) -> float:
        """Moment at which its rest and the time that it asked for are over."""
        return max(self.rest_until, self.retry_after.until)


@dataclass
class Endpoints:
    """The connections to all servers of a judge. `clock` and `sleep` are replaced in tests."""

    endpoints: tuple[Endpoint, ...]
    sleep: Sleep = asyncio.sleep
    clock: Clock = time.monotonic
    _servers: dict[Endpoint, _Server] = field(init=False)
    _changed: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _jitter: random.Random = field(init=False, default_factory=lambda: random.Random(0))

    def __post_init__(self) -> None:
        """Make the connections; they open when they are used."""
        tls = tls_for(self.endpoints)
        self._servers = {
            endpoint: _Server(
                endpoint, [Connection(endpoint, tls) for _ in range(endpoint.concurrency)]
            )
            for endpoint in self.endpoints
        }

    @property
    def concurrency(self) -> int:
        """Requests in flight at all servers together."""
        return sum(endpoint.concurrency for endpoint in self.endpoints)

    async def take(self, avoid: Endpoint | None = None) -> Connection:
        """Wait for a free connection to a server that takes requests.

        A request that failed at one server goes to another as long as one is up.
        """
        while True:
            now = self.clock()
            able = [
                server
                for server in self._servers.values()
                if server.free and server.takes_requests(now)
                if server.endpoint != avoid or not self._is_another_up(avoid, now)
            ]
            if able:
                server = max(able, key=lambda one: len(one.free) / one.endpoint.concurrency)
                server.is_tried = server.is_down
                return server.free.pop()
            await self._wait(now)

    def give_back(self, connection: Connection) -> None:
        """Return a connection after `answered`, `failed` or `asked_to_wait` was called."""
        self._servers[connection.endpoint].free.append(connection)
        self._changed.set()

    def answered(self, endpoint: Endpoint) -> None:
        """The server answered: it is up."""
        server = self._servers[endpoint]
        server.failures = server.rests = 0
        server.rest_until = 0.0
        server.is_down = server.is_tried = False
        server.last_answer_at = self.clock()
        server.retry_after.answered(self.clock())

    def asked_to_wait(self, endpoint: Endpoint, seconds: float) -> None:
        """The server asked for time: it gets no requests until then."""
        server = self._servers[endpoint]
        server.retry_after.asked(self.clock(), seconds)
        server.is_down = server.is_tried = False
        server.last_answer_at = self.clock()

    def retry_after(self, endpoint: Endpoint) -> RetryAfter:
        """What a server asked for since its last answer."""
        return self._servers[endpoint].retry_after

    def is_available_within(self, seconds: float, avoid: Endpoint | None = None) -> bool:
        """Whether a server is up, or will be available within that time."""
        near = self.clock() + seconds
        return any(
            not server.is_down and server.free_at <= near
            for server in self._servers.values()
            if server.endpoint != avoid
        )

    def failed(self, endpoint: Endpoint, unreachable: bool) -> None:
        """A request got no answer; unreachable servers count as down at once.

        A server that fails without a substitute keeps getting requests: they back off themselves.
        """
        server = self._servers[endpoint]
        server.failures += 1
        server.is_tried = False
        fails_often = server.failures >= FAILURES_UNTIL_DOWN
        if unreachable or (fails_often and self._is_another_up(endpoint, self.clock())):
            server.is_down = True
            rest = min(FIRST_REST_S * 2 ** min(server.rests, 10), LONGEST_REST_S)
            server.rests += 1
            rest *= 1 + 0.2 * self._jitter.random()
            server.rest_until = max(server.rest_until, self.clock() + rest)

    def _is_another_up(self, avoid: Endpoint, now: float) -> bool:
        return any(
            not server.is_down and now >= server.free_at
            for server in self._servers.values()
            if server.endpoint != avoid
        )

    @property
    def has_answered(self) -> bool:
        """Whether any server has answered yet."""
        return any(server.last_answer_at is not None for server in self._servers.values())

    @property
    def is_any_up(self) -> bool:
        """Whether a server takes requests now, even if all its connections are in use."""
        now = self.clock()
        return any(
            not server.is_down and now >= server.free_at for server in self._servers.values()
        )

    def seconds_without_answer(self) -> float:
        """Seconds since the last answer of any server, or the end of the time that one asked for.

        Infinite where there was none.
        """
        now = self.clock()
        heard = [
            max(server.last_answer_at, min(server.retry_after.until, now))
            for server in self._servers.values()
            if server.last_answer_at is not None
        ]
        return now - max(heard) if heard else float("inf")

    async def aclose(self) -> None:
        """Close all connections that are not in use."""
        for server in self._servers.values():
            for connection in server.free:
                await connection.aclose()
        # An event belongs to the loop in which it was first waited for.
        self._changed = asyncio.Event()

    async def _wait(self, now: float) -> None:
        """Wait until a connection is given back or a server has rested."""
        rests = [
            server.free_at - now
            for server in self._servers.values()
            if server.free and server.free_at > now
        ]
        in_use = any(
            len(server.free) < server.endpoint.concurrency for server in self._servers.values()
        )
        if not in_use and rests:
            await self.sleep(min(rests))
            return
        self._changed.clear()
        try:
            async with asyncio.timeout(min(rests) if rests else None):
                await self._changed.wait()
        except TimeoutError:
            return
