"""Who is reviewing: a name in a signed cookie, and the token that a shared server asks for."""

from __future__ import annotations

import hashlib
import hmac
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from labeler.errors import UsageError
from labeler.store.view_definitions.base import ADJUDICATED

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
