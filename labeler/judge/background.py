"""How often words and phrases occur in the other text of a study, by role and language."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from crosscoder.files import sha256_text
from labeler.judge.base import Example
from labeler.judge.evidence_statistics import LanguageIdentifier
from labeler.judge.evidence_units import Feature, form_of, occurrences, units_of
from labeler.judge.rendering import joined

Group = tuple[str, str | None]
"""Role and language code of a turn; None where the language is unknown."""
SMOOTHING = 300.0
"""Units of all text that are added to a group's own: a small group has the rates of all text."""
UNSEEN = 0.2
"""Count that every feature has in addition, also one that the background does not hold."""
UNSEEN_UNITS = 1000.0
"""Units that this count is among; without any text every feature has the rate 0.0002."""


@dataclass(frozen=True)
class Background:
    """Counts of features in text, by role and language; without text everything is rare."""

    counts: Mapping[Group, Mapping[Feature, int]] = field(default_factory=dict)
    sizes: Mapping[Group, int] = field(default_factory=dict)
    """Units of each group."""
    fingerprint: str = ""
    """Hash of the text."""

    @classmethod
    def of(cls, texts: Sequence[Example], languages: LanguageIdentifier) -> Background:
        """Count the features of texts, whatever fires there."""
        counts: dict[Group, Counter[Feature]] = defaultdict(Counter)
        sizes: Counter[Group] = Counter()
        for text in texts:
            for turn, units in units_of(text):
                group = (turn.role, languages.identify(joined(text, turn.positions)))
                counts[group].update(occurrences(units))
                sizes[group] += len(units)
        whole = "\0".join(f"{list(text.roles)}{list(text.tokens)}" for text in texts)
        return cls(dict(counts), dict(sizes), sha256_text(whole))

    def role_share(self, role: str) -> float:
        """Share of the units that are of a role."""
        return self._share(sum(n for group, n in self.sizes.items() if group[0] == role))

    def language_share(self, language: str) -> float:
        """Share of a language among the units whose language is known."""
        known = sum(n for group, n in self.sizes.items() if group[1] is not None)
        of_language = sum(n for group, n in self.sizes.items() if group[1] == language)
        return of_language / known if known else 0.0

    def rates(self, mixture: Mapping[Group, float]) -> Callable[[Feature], float]:
        """Share of the units with a feature in text of the same roles and languages.

        `mixture` has weights that sum to 1.
        """

        def rate(feature: Feature) -> float:
            if feature.startswith("letters "):
                return self._letters_rate(form_of(feature)[1])
            overall = (self._totals[feature] + UNSEEN) / (self._size + UNSEEN_UNITS)
            return sum(
                weight * (self._count(group, feature) + SMOOTHING * overall)
                / (self.sizes.get(group, 0) + SMOOTHING)
                for group, weight in mixture.items()
            )  # fmt: skip

        return rate

    def _letters_rate(self, letters: str) -> float:
        """Share of all units that hold the letters."""
        if letters not in self._letters:
            found = sum(n for feature, n in self._words if letters in feature)
            self._letters[letters] = (found + UNSEEN) / (self._size + UNSEEN_UNITS)
        return self._letters[letters]

    def _count(self, group: Group, feature: Feature) -> int:
        counts = self.counts.get(group)
        return counts.get(feature, 0) if counts is not None else 0

    def _share(self, n_units: int) -> float:
        return n_units / self._size if self._size else 0.0

    @cached_property
    def _size(self) -> int:
        return sum(self.sizes.values())

    @cached_property
    def _totals(self) -> Counter[Feature]:
        totals: Counter[Feature] = Counter()
        for counts in self.counts.values():
            totals.update(counts)
        return totals

    @cached_property
    def _words(self) -> list[tuple[str, int]]:
        """Every word with its count."""
        pairs = ((form_of(feature), count) for feature, count in self._totals.items())
        return [(text, count) for (form, text), count in pairs if form == "word"]

    @cached_property
    def _letters(self) -> dict[str, float]:
        return {}


NO_TEXT = Background()
