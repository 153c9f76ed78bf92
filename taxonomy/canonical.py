"""What an explanation is about, without the words that every explanation begins with."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_SUBJECT = r"(?:this|the|a)?\s*(?:latent|feature|neuron|unit|direction|it)?\s*"
_VERB = (
    r"(?:(?:mainly|mostly|primarily|strongly|consistently|typically|often|always)\s+)?"
    r"(?:fires?|firing|activates?|activating|responds?|responding|triggers?|detects?|detecting|"
    r"represents?|representing|captures?|capturing|encodes?|encoding|is active|"
    r"is activated)\s*"
    r"(?:(?:mainly|mostly|primarily|strongly|consistently|typically|often|always)\s+)?"
    r"(?:on|for|to|in|when|whenever|by|at)?\s*"
)
_BOILERPLATE = re.compile(rf"^\W*(?>{_SUBJECT}{_VERB})(?=\S)", re.IGNORECASE)


@dataclass(frozen=True)
class Canonical:
    """Distinct canonical texts, and which of them each given text is."""

    texts: tuple[str, ...]
    """Distinct, in the order in which they first occur."""
    of: tuple[int, ...]
    """Position in `texts` of each given text."""


def canonical_text(text: str) -> str:
    """Strip "This latent fires on" and the like, and settle Unicode, white space and the end.

    The words themselves and their case stay; a text that is nothing but boilerplate stays whole.
    """
    settled = " ".join(unicodedata.normalize("NFC", text).split())
    stripped = _BOILERPLATE.sub("", settled, count=1).strip(" .:;,")
    return stripped or settled


def canonicalise(texts: Sequence[str]) -> Canonical:
    """Canonical texts that differ in more than case, each once."""
    places: dict[str, int] = {}
    distinct: list[str] = []
    of = []
    for text in texts:
        short = canonical_text(text)
        key = short.casefold()
        if key not in places:
            places[key] = len(distinct)
            distinct.append(short)
        of.append(places[key])
    return Canonical(tuple(distinct), tuple(of))
