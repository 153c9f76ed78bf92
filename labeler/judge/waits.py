"""The time that a server asks for with Retry-After: how long, and what is said of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from labeler.judge.retrying import FIRST_WAIT_S, LONGEST_WAIT_S
from labeler.judge.server_errors import duration_words

SAID_FROM_S = 5.0
"""Seconds of a wait below which nothing is said of it."""
_LOGGER = logging.getLogger(__name__)


@dataclass
class AskedWait:
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
