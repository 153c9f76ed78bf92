"""Who may ask and who is reviewing: host, origin, size, token, and the name in a signed cookie."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import re
import threading
import time
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labeler.errors import UsageError
from labeler.store.views.base import ADJUDICATED

LARGEST_BODY = 262_144
SAFE_METHODS = frozenset({"GET", "HEAD"})
METHODS = SAFE_METHODS | {"POST"}
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_LENGTH = re.compile("[0-9]{1,9}")
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class HostRule:
    """Names by which a browser may call the server: any other is a rebound DNS name."""

    names: frozenset[str]
    any_address: bool = False
    """Whether literal IP addresses pass: nobody can rebind those."""

    @classmethod
    def of(cls, host: str, extra: Iterable[str] = ()) -> HostRule:
        """The rule of a server that listens on `host`."""
        everywhere = host in ("0.0.0.0", "::", "")
        names = {name.casefold() for name in (host, *extra) if name} | LOOPBACK
        return cls(frozenset(names), any_address=everywhere)

    def allows(self, header: str | None) -> bool:
        """Whether a Host header names this server."""
        name = host_name(header)
        if name is None:
            return False
        if name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.any_address


def host_name(header: str | None) -> str | None:
    """The name in a Host header, without its port; None for a header that is none."""
    try:
        name = urlsplit(f"//{header}").hostname if header else None
    except ValueError:
        return None
    return name.casefold().rstrip(".") if name else None


def is_same_origin(headers: Headers) -> bool:
    """Whether a write comes from a page of this server; a request that does not say is refused."""
    site = headers.get("sec-fetch-site")
    if site is not None and site != "same-origin":
        return False
    origin = headers.get("origin")
    if origin is None:
        return site == "same-origin"
    try:
        sender = urlsplit(origin).netloc
    except ValueError:
        return False
    return sender.casefold() == headers.get("host", "").casefold()


class Guard:
    """Refuses what is not to be answered, and puts the security headers on every answer."""

    def __init__(self, app: ASGIApp, hosts: HostRule) -> None:
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request and pass it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope))
        if refusal is not None:
            await refusal(scope, receive, send_guarded)
            return
        await self.app(scope, _limited(receive), send_guarded)

    def _refusal(self, method: str, headers: Headers) -> PlainTextResponse | None:
        if not self.hosts.allows(headers.get("host")):
            return PlainTextResponse("this server is not called by that name\n", 421)
        if method not in METHODS:
            return PlainTextResponse("only GET and POST\n", 405)
        if method in SAFE_METHODS:
            return None
        if not is_same_origin(headers):
            return PlainTextResponse("writes are taken from this server's own pages only\n", 403)
        length = headers.get("content-length", "")
        if not _LENGTH.fullmatch(length) or int(length) > LARGEST_BODY:
            return PlainTextResponse(f"a body of at most {LARGEST_BODY} bytes is taken\n", 413)
        return None


def _limited(receive: Receive) -> Receive:
    """Pass a body on only as far as the limit."""
    received = 0

    async def receive_limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > LARGEST_BODY:
            return {"type": "http.disconnect"}
        return message

    return receive_limited


LONGEST_NAME = 100
SHORTEST_TOKEN = 16
COOKIE_SECONDS = 30 * 24 * 3600
"""How long a sign-in lasts; the server counts, not only the browser."""
LARGEST_COOKIE = 2_000
"""Characters: a name of which each is escaped, and what follows it."""


def checked_name(name: str) -> str:
    """A reviewer's name, trimmed; UsageError for one that is empty, reserved or unprintable."""
    trimmed = " ".join(name.split())
    if not trimmed:
        raise UsageError("reviewer: is empty; give a name")
    if len(trimmed) > LONGEST_NAME:
        raise UsageError(f"reviewer: is longer than {LONGEST_NAME} characters")
    if trimmed.casefold() == ADJUDICATED:
        raise UsageError(
            f"reviewer: {ADJUDICATED!r} is the stream of settled conflicts; take your own name"
        )
    if any(unicodedata.category(character).startswith("C") for character in trimmed):
        raise UsageError("reviewer: holds characters that cannot be shown")
    return trimmed


@dataclass(frozen=True)
class Access:
    """How a server tells its reviewers apart."""

    secret: bytes = field(repr=False)
    """Signs cookies; derived from the token, so that a new token ends every session."""
    token: str | None = field(repr=False)
    """None = everyone who reaches the server may review."""
    default_reviewer: str | None
    """Who reviews without having said a name; None where a token is asked for."""
    study: str = ""
    """Which study the cookies are for: browsers send those of one host to all of its ports."""
    clock: Callable[[], float] = field(default=time.time, repr=False)
    """Seconds since 1970; replaced in tests."""

    @classmethod
    def build(
        cls,
        token: str | None,
        default_reviewer: str | None,
        noise: bytes,
        study: str = "",
        clock: Callable[[], float] = time.time,
    ) -> Access:
        """Access with a token, whose cookies outlive the server, or without one and a secret from
        `noise`, whose cookies end with it.
        """
        if token is None:
            return cls(noise, None, default_reviewer, study, clock)
        if len(token) < SHORTEST_TOKEN:
            raise UsageError(f"--token: is shorter than {SHORTEST_TOKEN} characters")
        secret = hashlib.sha256(b"difflens review " + token.encode()).digest()
        return cls(secret, token, None, study, clock)

    @property
    def cookie_name(self) -> str:
        """The name of this study's cookie, the same at every start."""
        return f"difflens_{hashlib.sha256(self.study.encode()).hexdigest()[:16]}"

    def is_token(self, given: str) -> bool:
        """Whether a token is the right one, compared in constant time."""
        if self.token is None:
            return True
        return hmac.compare_digest(_digest(given), _digest(self.token))

    def cookie(self, name: str) -> str:
        """The cookie of a reviewer, good for COOKIE_SECONDS from now."""
        quoted, begun = quote(name, safe=""), int(self.clock())
        return f"{quoted}.{begun}.{self._signature(quoted, str(begun))}"

    def reviewer(self, cookie: str | None) -> str | None:
        """Who a request comes from; None where they are to sign in.

        Only a request without any cookie is the default reviewer's: whoever holds one that is
        forged, expired or of an earlier start said another name, and must not act under this one.
        """
        if cookie is None:
            return self.default_reviewer
        if len(cookie) > LARGEST_COOKIE:
            return None
        quoted, begun, signature = _parts(cookie)
        expected = self._signature(quoted, begun)
        if not hmac.compare_digest(signature.encode("utf-8", "replace"), expected.encode()):
            return None
        if not 0 <= self.clock() - int(begun) <= COOKIE_SECONDS:
            return None
        return unquote(quoted)

    def claimed_name(self, cookie: str | None) -> str:
        """The name in a cookie, unproven: what the form that asks for it begins with."""
        if cookie is None or len(cookie) > LARGEST_COOKIE:
            return self.default_reviewer or ""
        try:
            return checked_name(unquote(_parts(cookie)[0]))
        except UsageError:
            return ""

    def _signature(self, quoted: str, begun: str) -> str:
        said = "\n".join((self.study, quoted, begun))
        return hmac.new(self.secret, said.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def _parts(cookie: str) -> tuple[str, str, str]:
    """Name, moment and signature; empty ones where it has fewer. A name may hold dots."""
    parts = cookie.rsplit(".", 2)
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 else ("", "", "")


def _digest(text: str) -> bytes:
    """Of equal length for every text, so that a comparison tells nothing of the length either."""
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


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
