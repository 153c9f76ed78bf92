"""Who is reviewing: a name in a signed cookie, and the token that a shared server asks for."""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from dataclasses import dataclass
from urllib.parse import quote, unquote

from labeler.errors import UsageError
from labeler.store.view_definitions.base import ADJUDICATED

COOKIE = "difflens_reviewer"
LONGEST_NAME = 100
SHORTEST_TOKEN = 16


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

    secret: bytes
    """Signs cookies; derived from the token, so that a new token ends every session."""
    token: str | None
    """None = everyone who reaches the server may review."""
    default_reviewer: str | None
    """Who reviews without having said a name; None where a token is asked for."""

    @classmethod
    def build(cls, token: str | None, default_reviewer: str | None, noise: bytes) -> Access:
        """Access with a token, or without one and a secret from `noise`."""
        if token is None:
            return cls(noise, None, default_reviewer)
        if len(token) < SHORTEST_TOKEN:
            raise UsageError(f"--token: is shorter than {SHORTEST_TOKEN} characters")
        return cls(hashlib.sha256(b"difflens review " + token.encode()).digest(), token, None)

    def is_token(self, given: str) -> bool:
        """Whether a token is the right one, compared in constant time."""
        return self.token is None or hmac.compare_digest(given.encode(), self.token.encode())

    def cookie(self, name: str) -> str:
        """The cookie of a reviewer."""
        return f"{quote(name, safe='')}.{self._signature(name)}"

    def reviewer(self, cookie: str | None) -> str | None:
        """Who a request comes from; None where nobody has signed in."""
        if cookie:
            quoted, _, signature = cookie.rpartition(".")
            name = unquote(quoted)
            if hmac.compare_digest(signature.encode(), self._signature(name).encode()):
                return name
        return self.default_reviewer

    def _signature(self, name: str) -> str:
        return hmac.new(self.secret, name.encode(), hashlib.sha256).hexdigest()
