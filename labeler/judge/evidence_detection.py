"""Which texts an explanation is about: by what it quotes, the languages it names, and vectors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labeler.embedding.base import Embedder
from labeler.judge.base import Example
from labeler.judge.evidence_explanation import EXAMPLE, NOT_ENGLISH
from labeler.judge.evidence_statistics import ENGLISH, LANGUAGE_NAMES, LanguageIdentifier
from labeler.judge.evidence_units import (
    KINDS,
    MOST_WORDS,
    Feature,
    folded_words,
    form_of,
    occurrences,
    units_of,
)
from labeler.judge.rendering import content_text, joined

MISS = 0.5
"""What a found cue leaves of the doubt whether the explanation is about a text."""
LANGUAGE_WEIGHT, LIKENESS_WEIGHT = 0.5, 2.0
"""Weight of the share of text in the named languages, and of the cosine similarity, where the cues
have 1: logistic regression on the held-out examples of organisms (benchmarks/explanations.py)."""
_QUOTED = re.compile(r'"([^"]*)"')
_ROLE_NAMES = {
    "assistant": "assistant",
    "an answer": "assistant",
    "user": "user",
    "a message": "user",
    "plain text": "plain",
    "a text": "plain",
}


def alike(
    explanation: str,
    examples: Sequence[Example],
    embedder: Embedder,
    languages: LanguageIdentifier,
) -> list[bool]:
    """Whether each text belongs to the group that fits the explanation better.

    The scores are split in two where the variance between the groups is largest (Otsu 1979). The
    split does not know how many texts are right. It always finds some, except where all scores are
    equal: then no text is alike. Activations are not read.
    """
    if not examples:
        return []
    cues = Cues.of(explanation)
    scores = (
        cues.found(examples)
        + LANGUAGE_WEIGHT * cues.in_languages(examples, languages)
        + LIKENESS_WEIGHT * likeness(cues.examples or (explanation,), examples, embedder)
    )
    return [bool(value) for value in scores > split_point(scores)]


@dataclass(frozen=True)
class Cues:
    """What an explanation says that can be looked up in a text, whoever wrote it."""

    features: tuple[Feature, ...]
    """Quoted words and phrases, letters, and kinds of units that it names."""
    languages: frozenset[str]
    """Codes of the languages that it names."""
    roles: frozenset[str]
    """Roles that it names; none stands for all."""
    examples: tuple[str, ...]
    """Its quotes that are longer than a phrase."""

    @classmethod
    def of(cls, explanation: str) -> Cues:
        """Read an explanation."""
        features: dict[Feature, None] = {}
        examples = []
        for match in _QUOTED.finditer(explanation):
            quote, before = match.group(1), explanation[: match.start()].rstrip()
            words = folded_words(quote)
            n_words = len(words.split())
            if before.endswith(EXAMPLE) or n_words > MOST_WORDS:
                examples.append(quote)
            elif before.endswith((" letter", " letters")):
                features[f"letters {quote.casefold()}"] = None
            elif n_words:
                features[f"{'word' if n_words == 1 else 'phrase'} {words}"] = None
        prose = _QUOTED.sub('""', explanation)
        features |= {f"kind {kind}": None for kind in KINDS if kind in prose}
        named = {code for code, name in LANGUAGE_NAMES.items() if name in prose}
        if NOT_ENGLISH in prose:
            named = set(LANGUAGE_NAMES) - {ENGLISH}
        roles = {role for words, role in _ROLE_NAMES.items() if words in prose}
        return cls(tuple(features), frozenset(named), frozenset(roles), tuple(examples))

    def found(self, examples: Sequence[Example]) -> NDArray[np.float64]:
        """How sure the cues in each text make it (n,): every cue halves what is left of 1."""
        return np.array([1 - MISS ** self._n_found(example) for example in examples])

    def in_languages(
        self, examples: Sequence[Example], languages: LanguageIdentifier
    ) -> NDArray[np.float64]:
        """Share of each text (n,) in the named languages, less a half; 0 where that is unknown."""
        return np.array([self._in_languages(example, languages) for example in examples])

    def _n_found(self, example: Example) -> int:
        found: set[Feature] = set()
        text = ""
        for turn, units in units_of(example):
            if not self.roles or turn.role in self.roles:
                found.update(occurrences(units))
                text = f"{text}\n{joined(example, turn.positions).casefold()}"
        parts = map(form_of, self.features)
        n_letters = sum(form == "letters" and letters in text for form, letters in parts)
        return n_letters + len(found.intersection(self.features))

    def _in_languages(self, example: Example, languages: LanguageIdentifier) -> float:
        if not self.languages:
            return 0.0
        n_known = n_named = 0
        for turn, units in units_of(example):
            language = languages.identify(joined(example, turn.positions))
            n_known += len(units) * (language is not None)
            n_named += len(units) * (language in self.languages)
        return n_named / n_known - 0.5 if n_known else 0.0


def likeness(
    quotes: Sequence[str], examples: Sequence[Example], embedder: Embedder
) -> NDArray[np.float64]:
    """Cosine similarity (n,) of each text to the nearest of some quotes."""
    vectors = embedder.embed([*quotes, *map(content_text, examples)])
    own, others = vectors[: len(quotes)], vectors[len(quotes) :]
    return np.asarray((others @ own.T).max(axis=1), dtype=np.float64)


def split_point(values: NDArray[np.float64]) -> float:
    """The value above which Otsu's upper group begins; the largest where all are equal."""
    ordered = np.sort(values)
    sizes = np.arange(1, len(ordered))
    lower = np.cumsum(ordered)[:-1] / sizes
    upper = (ordered.sum() - np.cumsum(ordered)[:-1]) / (len(ordered) - sizes)
    between = sizes * (len(ordered) - sizes) * (upper - lower) ** 2
    # Values that are equal up to rounding belong to one group.
    distinct = np.diff(ordered) > 1e-9
    if not distinct.any():
        return float(ordered[-1])
    return float(ordered[int(np.argmax(np.where(distinct, between, -1.0)))])
