"""What every request has to pass: host, origin, size; and the headers of every answer."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
