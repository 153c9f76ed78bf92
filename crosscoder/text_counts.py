"""How much of a corpus is left once a chat template has rendered it, by role.

Lost is every character other than white space that a message has and the rendered text lacks.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from crosscoder.corpus import Document, TokenRole
from crosscoder.errors import InputError
from crosscoder.manifest import RoleText, TextRecord

ROLE_OF_MESSAGE = {
    "system": TokenRole.SYSTEM,
    "user": TokenRole.USER,
    "assistant": TokenRole.ASSISTANT,
}
_CLOSING = re.compile(r"(</[^<>\s]{1,30}>|\[/[A-Z_]{1,30}\])\s*\Z")
_SHOWN = 40
"""Characters of lost text that a message shows."""


@dataclass
class _RoleCounts:
    """What is counted of the messages of one role."""

    n_whole: int = 0
    n_in_part: int = 0
    n_absent: int = 0
    n_characters: int = 0
    n_lost: int = 0
    n_cut: int = 0
    losses: Counter[str] = field(default_factory=Counter)
    """Characters lost, by what the template does."""
    first: dict[str, str] = field(default_factory=dict)
    """Where each of these was first seen."""

    @property
    def n_messages(self) -> int:
        return self.n_whole + self.n_in_part + self.n_absent

    @property
    def lost_share(self) -> float:
        return self.n_lost / self.n_characters if self.n_characters else 0.0


class TextCounts:
    """Counts messages, characters and tokens by role, document by document."""

    def __init__(self, model: str) -> None:
        """`model` is the one whose template renders the corpus."""
        self._model = model
        self._roles: dict[TokenRole, _RoleCounts] = {}
        self._n_refused = 0
        self._n_cut = 0

    def add_text(self, document: Document) -> None:
        """Count a document without messages: all of it is there."""
        counts = self._counts(TokenRole.PLAIN)
        counts.n_whole += 1
        counts.n_characters += _n_visible(document.text or "")

    def add_chat(self, document: Document, lost: dict[int, tuple[str, ...]]) -> None:
        """Count a chat; `lost` holds the stretches that its rendering lacks, by message."""
        for index, message in enumerate(document.messages or ()):
            counts = self._counts(ROLE_OF_MESSAGE[message.role])
            stretches = lost.get(index, ())
            n_visible = _n_visible(message.content)
            n_lost = sum(_n_visible(stretch) for stretch in stretches)
            counts.n_characters += n_visible
            counts.n_lost += n_lost
            counts.n_whole += not n_lost
            counts.n_in_part += 0 < n_lost < n_visible
            counts.n_absent += 0 < n_lost == n_visible
            for stretch in stretches:
                words = _what_is_done(stretch, message.role, n_lost == n_visible)
                counts.losses[words] += _n_visible(stretch)
                counts.first.setdefault(words, _seen(document, stretch))

    def add_refused(self, document: Document, reason: str) -> None:
        """Count a chat that the template refuses: all of it is lost."""
        self._n_refused += 1
        for message in document.messages or ():
            counts = self._counts(ROLE_OF_MESSAGE[message.role])
            n_visible = _n_visible(message.content)
            counts.n_absent += 1
            counts.n_characters += n_visible
            counts.n_lost += n_visible
            words = f"refuses documents ({reason})"
            counts.losses[words] += n_visible
            counts.first.setdefault(words, document.place)

    def add_cut(self, roles: NDArray[np.uint8]) -> None:
        """Count the tokens of a document that lie beyond the longest length, by their roles."""
        self._n_cut += bool(len(roles))
        for role, n_tokens in zip(*np.unique(roles, return_counts=True), strict=True):
            self._counts(TokenRole(role)).n_cut += int(n_tokens)

    def require(self, max_lost: float) -> None:
        """InputError where more than that share of the characters of a role is lost."""
        role, counts = max(
            self._roles.items(), key=lambda each: each[1].lost_share, default=(None, _RoleCounts())
        )
        if role is None or counts.lost_share <= max_lost:
            return
        words, _ = counts.losses.most_common(1)[0]
        name = f"{role.name.lower()} messages"
        raise InputError(
            f"corpus: the chat template of model {self._model!r} {words}: of "
            f"{counts.n_messages:,} {name} {counts.n_in_part:,} are found in part and "
            f"{counts.n_absent:,} not at all, {100 * counts.lost_share:.1f}% of their characters "
            f"are lost (first: {counts.first[words]}); change those documents, or set "
            f"corpus.max_lost = {math.ceil(100 * counts.lost_share) / 100:g} to go on without "
            "that text"
        )

    def record(self) -> TextRecord:
        """The counts so far, without the tokens that take part."""
        rows = [
            RoleText(
                role=role.name.lower(),
                n_messages=counts.n_messages,
                n_whole=counts.n_whole,
                n_in_part=counts.n_in_part,
                n_absent=counts.n_absent,
                n_characters=counts.n_characters,
                n_lost=counts.n_lost,
                n_cut=counts.n_cut,
                losses=tuple(f"{words} (first: {counts.first[words]})" for words in counts.losses),
            )
            for role, counts in sorted(self._roles.items())
            if counts.n_messages
        ]
        return TextRecord(roles=tuple(rows), n_refused=self._n_refused, n_cut=self._n_cut)

    def _counts(self, role: TokenRole) -> _RoleCounts:
        return self._roles.setdefault(role, _RoleCounts())


def _what_is_done(stretch: str, role: str, is_all: bool) -> str:
    """What a template does to a stretch of a message that its text lacks."""
    if is_all:
        return f"leaves out {role} messages"
    closing = _CLOSING.search(stretch)
    if closing is None:
        return f"drops or rewrites parts of {role} messages"
    opening = closing[1].replace("/", "", 1)
    if stretch.lstrip().startswith(opening):
        return f"drops text between {opening} and {closing[1]} of {role} messages"
    return f"drops text up to {closing[1]} of {role} messages"


def _seen(document: Document, stretch: str) -> str:
    """Where something was lost, and what, for one line."""
    words = " ".join(stretch.split())
    return f"{document.place}: {words[:_SHOWN] + '...' if len(words) > _SHOWN else words!r}"


def _n_visible(text: str) -> int:
    """Characters other than white space."""
    return len("".join(text.split()))
