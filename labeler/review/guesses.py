"""A limit on guessed tokens: by address and in total, in a way that always wears off."""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MOST_BY_ADDRESS, SECONDS_BY_ADDRESS = 5, 30.0
"""Wrong tokens at once from one address, and seconds until it may try one more."""
MOST_IN_TOTAL, SECONDS_IN_TOTAL = 60, 1.0
"""Likewise from all addresses: whoever commands many does not guess faster."""
MOST_ADDRESSES = 10_000
"""Addresses that are remembered; the longest silent one is forgotten."""
IPV6_NETWORK = 64
"""Leading bits of an IPv6 address: one customer holds all that begin alike."""


@dataclass
class _Allowance:
    """Tries that are left: as many as `most`, one more after each `seconds`."""

    most: int
    seconds: float
    left: float
    since: float

    def now(self, moment: float) -> float:
        """The tries that are left at a moment."""
        earned = max(0.0, moment - self.since) / self.seconds
        return min(float(self.most), self.left + earned)

    def use(self, moment: float) -> None:
        """Take one try."""
        self.left, self.since = self.now(moment) - 1, moment

    def wait(self, moment: float) -> float:
        """Seconds until there is a whole try; 0 where there is one."""
        return max(0.0, 1 - self.now(moment)) * self.seconds


class Guesses:
    """Wrong tokens so far. Signed-in reviewers never come here, so none is locked out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._total = _Allowance(MOST_IN_TOTAL, SECONDS_IN_TOTAL, MOST_IN_TOTAL, clock())
        self._addresses: OrderedDict[str, _Allowance] = OrderedDict()

    def wait(self, address: str) -> int:
        """Whole seconds until this address may try a token; 0 = now."""
        with self._lock:
            moment = self._clock()
            known = self._addresses.get(_network(address))
            waits = [self._total.wait(moment), known.wait(moment) if known else 0.0]
            return math.ceil(max(waits))

    def wrong(self, address: str) -> None:
        """Count a wrong token."""
        with self._lock:
            moment = self._clock()
            network = _network(address)
            fresh = _Allowance(MOST_BY_ADDRESS, SECONDS_BY_ADDRESS, MOST_BY_ADDRESS, moment)
            allowance = self._addresses.setdefault(network, fresh)
            self._addresses.move_to_end(network)
            if len(self._addresses) > MOST_ADDRESSES:
                self._addresses.popitem(last=False)
            allowance.use(moment)
            self._total.use(moment)

    def right(self, address: str) -> None:
        """Forget what an address got wrong before it knew the token."""
        with self._lock:
            self._addresses.pop(_network(address), None)


def _network(address: str) -> str:
    """The address itself; of IPv6 the network that it lies in."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 6:
        return str(ipaddress.ip_network((parsed, IPV6_NETWORK), strict=False))
    return address
