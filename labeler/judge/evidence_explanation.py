"""What the evidence judge says of a latent: what sets its text apart, as a person would say it.

The first sentence says on what it fires, and where: place in the turn, role and language, each only
if it is peculiar beside the other text of the study. A second one names words that come again near
by; at the end stands a quote.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeler.embedding.base import Embedder
from labeler.judge.background import Background
from labeler.judge.distinctive import (
    Firing,
    Trigger,
    context_of,
    rare_words_of,
    triggers_of,
)
from labeler.judge.evidence_statistics import (
    ENGLISH,
    LANGUAGE_NAMES,
    LanguageIdentifier,
    Reading,
    edge_of_turn,
)
from labeler.judge.evidence_units import form_of

EXAMPLE = "Example:"
"""What comes before the quote."""
NOT_ENGLISH = "languages other than English"
QUOTE_CHARACTERS = 120
SHORT_FORM_CHARACTERS = 80
DIFFUSE_SHARE = 0.35
"""Share of activation on the triggers below which no word sets the latent off by itself."""
MOST_WORDS, MOST_SPELLINGS, MOST_LANGUAGES = 5, 3, 3
LANGUAGE_SHARE = 0.15
"""Smallest share of a language that is named."""
LEADING_LANGUAGE = 0.75
"""Share from which a language is named alone."""
PECULIAR_SHARE, PECULIAR_SCORE = 0.4, 2.0
"""Share of the activation, and its standard score beside other text, from which it is said."""
_ROLE_NAMES = {
    "assistant": "the assistant's answers",
    "user": "user messages",
    "plain": "plain text",
}
_TURN_NAMES = {"assistant": "an answer", "user": "a message", "plain": "a text"}


def explained(
    reading: Reading, embedder: Embedder, languages: LanguageIdentifier, background: Background
) -> dict[str, Any]:
    """The explanation with its confidence, of a reading with at least one text."""
    vectors = embedder.embed([piece.text for piece in reading.snippets])
    centre = vectors.mean(axis=0)
    firing = Firing(reading, languages)
    triggers = triggers_of(firing, background)
    sentences = [
        _fires(triggers, reading, firing, background),
        _context(triggers, firing, background),
        f"{EXAMPLE} {quoted(_shortened(_example(reading, vectors @ centre, triggers)))}",
    ]
    # Length of the mean unit vector: 1 where all texts are alike, 0 where unrelated.
    cohesion = min(1.0, float(np.linalg.norm(centre)))
    return {
        "explanation": " ".join(sentence for sentence in sentences if sentence),
        "interpretable": True,
        "confidence": round(cohesion, 4),
    }


def short_form(explanation: str) -> str:
    """The first statement of an explanation, cut to the length of a name."""
    one_line = " ".join(explanation.split())
    first = one_line.split(";")[0].split(". ")[0].rstrip(".")
    first = first.removeprefix("Fires on ").strip()
    if len(first) <= SHORT_FORM_CHARACTERS:
        return first
    return first[: SHORT_FORM_CHARACTERS - 1].rsplit(" ", 1)[0] + "\u2026"


def quoted(text: str) -> str:
    """Text between double quotes, on one line; its own double quotes become single ones."""
    return '"' + " ".join(text.split()).replace('"', "'") + '"'


def _fires(
    triggers: Sequence[Trigger], reading: Reading, firing: Firing, background: Background
) -> str:
    where = _where(reading, firing, background)
    if sum(trigger.share for trigger in triggers) >= DIFFUSE_SHARE:
        return f"Fires on {_listed([_named(one) for one in triggers])}{where}{_frames(triggers)}."
    words = [one.spellings[0] for one in triggers if form_of(one.feature)[0] in ("word", "phrase")]
    by_folded = {word.casefold(): word for word in rare_words_of(firing, background)}
    by_folded |= {word.casefold(): word for word in words}
    shown = [*words, *(word for word in by_folded.values() if word not in words)]
    such_as = f", such as {_listed([*map(quoted, shown[:MOST_WORDS])])}" if shown else ""
    return f"Fires on many different words{where}{such_as}."


def _named(trigger: Trigger) -> str:
    form, text = form_of(trigger.feature)
    spellings = f" ({', '.join(map(quoted, trigger.spellings[:MOST_SPELLINGS]))})"
    if form == "kind":
        return f"{text}{spellings if 'words' in text or text == 'negations' else ''}"
    if form == "letters":
        letters = "letter" if len(text) == 1 else "letters"
        return f"the {letters} {quoted(text)} within words{spellings}"
    return quoted(trigger.spellings[0])


def _frames(triggers: Sequence[Trigger]) -> str:
    """Up to two phrases with the triggers that are no triggers themselves."""
    named = {word.casefold() for trigger in triggers for word in trigger.spellings}
    frames = dict.fromkeys(frame for trigger in triggers for frame in trigger.frames)
    found = [quoted(frame) for frame in frames if frame.casefold() not in named]
    return f", as in {_listed(found[:2])}" if found else ""


def _where(reading: Reading, firing: Firing, background: Background) -> str:
    """Place in the turn, role and language, each after a space."""
    place = _place(reading, firing) or _roles(firing, background)
    language = _language(firing, background)
    return (f" {place}" if place else "") + (f" in {language}" if language else "")


def _place(reading: Reading, firing: Firing) -> str:
    """The start or end of the turn, where at least half of the examples fire there."""
    places = [edge_of_turn(window) for window in reading.windows]
    edge = next((edge for edge in ("start", "end") if 2 * places.count(edge) >= len(places)), None)
    shares = _shares(firing, 0)
    turns = [_TURN_NAMES[role] for role, share in shares.items() if share >= 1 / 3]
    return f"at the {edge} of {' or '.join(turns)}" if edge and turns else ""


def _roles(firing: Firing, background: Background) -> str:
    named = [
        _ROLE_NAMES[role]
        for role, share in _shares(firing, 0).items()
        if _is_peculiar(share, background.role_share(role), firing.n_examples)
    ]
    return f"in {_listed(named)}" if named else ""


def _language(firing: Firing, background: Background) -> str:
    """The languages, where English or all others together have a peculiar share."""
    known = {name: share for name, share in _shares(firing, 1).items() if name is not None}
    total = sum(known.values())
    if total < 0.5:
        return ""
    english, usual = known.pop(ENGLISH, 0.0) / total, background.language_share(ENGLISH)
    if _is_peculiar(english, usual, firing.n_examples):
        return LANGUAGE_NAMES[ENGLISH]
    if not _is_peculiar(1 - english, 1 - usual, firing.n_examples):
        return ""
    names = [LANGUAGE_NAMES[one] for one in known if known[one] / total >= LANGUAGE_SHARE]
    if max(known.values()) / total >= LEADING_LANGUAGE:
        return names[0]
    if len(names) == 2:
        return _listed(names)
    return NOT_ENGLISH + (f" ({', '.join(names[:MOST_LANGUAGES])})" if names else "")


def _shares(firing: Firing, part: int) -> dict[Any, float]:
    """Share of the roles (part 0) or languages (part 1), largest first."""
    shares: dict[Any, float] = defaultdict(float)
    for group, share in firing.mixture.items():
        shares[group[part]] += share
    return dict(sorted(shares.items(), key=lambda item: (-item[1], str(item[0]))))


def _is_peculiar(share: float, usual: float, n: int) -> bool:
    """Whether a share of n examples is larger than in other text, beyond chance."""
    error = max(usual * (1 - usual), 1e-4) ** 0.5 / n**0.5
    return share >= PECULIAR_SHARE and (share - usual) / error >= PECULIAR_SCORE


def _context(triggers: Sequence[Trigger], firing: Firing, background: Background) -> str:
    known = {
        word.casefold().replace("\u2019", "'")
        for trigger in triggers
        for text in (*trigger.spellings, *trigger.frames)
        for word in text.split()
    }
    found = context_of(firing, known, background)
    return f"Often near {_listed([*map(quoted, found)])}." if found else ""


def _example(reading: Reading, nearness: NDArray[np.floating], triggers: Sequence[Trigger]) -> str:
    """The text nearest to the centre among those that show the first trigger."""
    texts = [piece.text for piece in reading.snippets]
    words = [word.casefold() for trigger in triggers[:1] for word in trigger.spellings]
    shows = [any(word in text.casefold() for word in words) for text in texts]
    return texts[max(range(len(texts)), key=lambda at: (shows[at], nearness[at]))]


def _listed(items: Sequence[str]) -> str:
    return f"{', '.join(items[:-1])} and {items[-1]}" if len(items) > 1 else "".join(items)


def _shortened(text: str) -> str:
    one_line = " ".join(text.split())
    if len(one_line) <= QUOTE_CHARACTERS:
        return one_line
    return one_line[: QUOTE_CHARACTERS - 1].rsplit(" ", 1)[0] + "\u2026"
