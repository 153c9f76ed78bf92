"""Connections to a judge's servers: which gets the next request, its key, how long to wait."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from labeler.http.connections import Connection, Endpoint, tls_for
from labeler.judge.retry import RetryAfter

Sleep = Callable[[float], Awaitable[None]]
Clock = Callable[[], float]
FAILURES_UNTIL_DOWN = 3
"""Failures in a row, without an answer in between, after which a server counts as down."""
FIRST_REST_S, LONGEST_REST_S = 0.5, 5.0
"""Seconds until a server that is down is tried again: doubled each time that it is not back."""


@dataclass
class _Server:
    """What is known of one endpoint."""

    endpoint: Endpoint
    free: list[Connection]
    rest_until: float = 0.0
    failures: int = 0
    rests: int = 0
    """Times in a row that it was left alone."""
    is_down: bool = False
    is_tried: bool = False
    """A request is on its way to find out whether the server is back."""
    last_answer_at: float | None = None
    asked_wait: RetryAfter = field(default_factory=RetryAfter)

    def takes_requests(self, now: float) -> bool:
        """Whether a request may be sent now, a free line supposed."""
        return now >= self.free_at and not (self.is_down and self.is_tried)

    @property
    def free_at(self) -> float:
        """When it has rested, and the time that it asked for is over."""
        return max(self.rest_until, self.asked_wait.until)


@dataclass
class Endpoints:
    """The lines to all servers of a judge. `clock` and `sleep` are replaced in tests."""

    endpoints: tuple[Endpoint, ...]
    sleep: Sleep = asyncio.sleep
    clock: Clock = time.monotonic
    _servers: dict[Endpoint, _Server] = field(init=False)
    _changed: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _jitter: random.Random = field(init=False, default_factory=lambda: random.Random(0))

    def __post_init__(self) -> None:
        """Make the lines; they connect when they are used."""
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
        """A free line to a server that takes requests; waits for one.

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

    def give_back(self, line: Connection) -> None:
        """Return a line after `answered`, `failed` or `told_to_wait` was said of it."""
        self._servers[line.endpoint].free.append(line)
        self._changed.set()

    def answered(self, endpoint: Endpoint) -> None:
        """The server answered: it is up."""
        server = self._servers[endpoint]
        server.failures = server.rests = 0
        server.rest_until = 0.0
        server.is_down = server.is_tried = False
        server.last_answer_at = self.clock()
        server.asked_wait.answered(self.clock())

    def told_to_wait(self, endpoint: Endpoint, seconds: float) -> None:
        """The server asked for time; nobody asks it anything until then."""
        server = self._servers[endpoint]
        server.asked_wait.asked(self.clock(), seconds)
        server.is_down = server.is_tried = False
        server.last_answer_at = self.clock()

    def asked_wait(self, endpoint: Endpoint) -> RetryAfter:
        """What a server asked for since its last answer."""
        return self._servers[endpoint].asked_wait

    def is_one_near(self, seconds: float, avoid: Endpoint | None = None) -> bool:
        """Whether a server is up, or will have rested within that time."""
        near = self.clock() + seconds
        return any(
            not server.is_down and server.free_at <= near
            for server in self._servers.values()
            if server.endpoint != avoid
        )

    def failed(self, endpoint: Endpoint, unreachable: bool) -> None:
        """A request got no answer; unreachable servers count as down at once.

        One that fails and has no substitute is asked on: the requests wait by themselves.
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
        """Whether any server ever answered."""
        return any(server.last_answer_at is not None for server in self._servers.values())

    @property
    def somebody_is_up(self) -> bool:
        """Whether a server would take a request now or after it is done with others."""
        now = self.clock()
        return any(
            not server.is_down and now >= server.free_at for server in self._servers.values()
        )

    def silent_for_s(self) -> float:
        """Seconds since the last answer of any server, or the end of the time that one asked for.

        Infinite where there was none.
        """
        now = self.clock()
        heard = [
            max(server.last_answer_at, min(server.asked_wait.until, now))
            for server in self._servers.values()
            if server.last_answer_at is not None
        ]
        return now - max(heard) if heard else float("inf")

    async def aclose(self) -> None:
        """Hang up all lines that are not in use."""
        for server in self._servers.values():
            for line in server.free:
                await line.aclose()
        # An event belongs to the loop in which it was first waited for.
        self._changed = asyncio.Event()

    async def _wait(self, now: float) -> None:
        """Until a line is given back or a server has rested."""
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
