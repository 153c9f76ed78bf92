"""What the evidence judge says of a latent, from the statistics of its evidence."""

from __future__ import annotations

from typing import Any

import numpy as np

from labeler.embedding.base import Embedder
from labeler.judge.evidence_statistics import (
    LANGUAGE_NAMES,
    EvidenceStatistics,
    LanguageIdentifier,
    Reading,
    summarise,
)

SHOWN_WORDS = 5
SHOWN_SHARE = 0.04
"""Words below this share of activation are left out, except the first."""
SNIPPET_CHARACTERS = 120
SHORT_FORM_CHARACTERS = 80
_ROLE_WORDS = {"assistant": "assistant turns", "user": "user turns", "plain": "plain text"}


def explained(
    reading: Reading, embedder: Embedder, languages: LanguageIdentifier
) -> dict[str, Any]:
    """The explanation with its confidence, of a reading with at least one text."""
    vectors = embedder.embed([piece.text for piece in reading.snippets])
    centre = vectors.mean(axis=0)
    example = reading.snippets[int(np.argmax(vectors @ centre))]
    statistics = summarise(reading.windows, languages)
    # Length of the mean unit vector: 1 where all texts are alike, 0 where unrelated.
    cohesion = min(1.0, float(np.linalg.norm(centre)))
    return {
        "explanation": explanation_of(statistics, example.text),
        "interpretable": True,
        "confidence": round(cohesion, 4),
    }


def explanation_of(statistics: EvidenceStatistics, example: str | None) -> str:
    """One sentence with words, roles, languages, position in the turn and an example."""
    parts = [
        f"Fires on {_words(statistics)} in {_roles(statistics)}",
        _languages(statistics),
        _place(statistics),
        _concentration(statistics),
        f'texts such as "{_shortened(example)}"' if example else "",
    ]
    return "; ".join(part for part in parts if part)


def short_form(explanation: str) -> str:
    """The first statement of an explanation, cut to the length of a name."""
    one_line = " ".join(explanation.split())
    first = one_line.split(";")[0].split(". ")[0].rstrip(".")
    first = first.removeprefix("Fires on ").strip()
    if len(first) <= SHORT_FORM_CHARACTERS:
        return first
    return first[: SHORT_FORM_CHARACTERS - 1].rsplit(" ", 1)[0] + "\u2026"


def _words(statistics: EvidenceStatistics) -> str:
    top = statistics.words[:SHOWN_WORDS]
    shown = [item.word for item in top if item.share >= SHOWN_SHARE] or [
        item.word for item in top[:1]
    ]
    return ", ".join(f'"{word}"' for word in shown) or "nothing readable"


def _roles(statistics: EvidenceStatistics) -> str:
    named = [_ROLE_WORDS[role] for role, share in statistics.role_shares if share >= 0.2]
    return " and ".join(named) or "text"


def _languages(statistics: EvidenceStatistics) -> str:
    if 2 * statistics.n_known_language < statistics.n_windows:
        return ""
    named = [
        LANGUAGE_NAMES[language] for language, share in statistics.language_shares if share >= 0.2
    ]
    if not named:
        return "many languages"
    return " and ".join([", ".join(named[:-1]), named[-1]]) if len(named) > 1 else named[0]


def _place(statistics: EvidenceStatistics) -> str:
    if statistics.start_share >= 0.5:
        return "near the start of the turn"
    if statistics.end_share >= 0.5:
        return "near the end of the turn"
    return ""


def _concentration(statistics: EvidenceStatistics) -> str:
    top = statistics.words[0].share if statistics.words else 0.0
    if top >= 0.6:
        return f"almost only that word ({top:.0%} of its activation)"
    if top < 0.15:
        return "spread over many words"
    return ""


def _shortened(text: str) -> str:
    one_line = " ".join(text.split())
    if len(one_line) <= SNIPPET_CHARACTERS:
        return one_line
    return one_line[: SNIPPET_CHARACTERS - 1].rsplit(" ", 1)[0] + "\u2026"
