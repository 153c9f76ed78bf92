"""How often two reviewers gave which answers to the same latents, kept current by each decision.

With twenty reviewers there are 190 pairs: counting each over all latents for every page would take
longer than everything else on it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

NOBODY = -1
"""Code of an answer that nobody gave."""

Counts = NDArray[np.int64]
"""(answers, answers) latents by the answers of two parties."""


class PairCounts:
    """The counts of every pair of reviewers who decided on the same latent."""

    def __init__(self, n_answers: int) -> None:
        self._n_answers = n_answers
        self._pairs: defaultdict[tuple[str, str], Counter[tuple[int, int]]] = defaultdict(Counter)

    def add(self, voices: Mapping[str, int]) -> None:
        """Count one latent: code of the answer that stands, by reviewer."""
        self._count(voices, 1)

    def remove(self, voices: Mapping[str, int]) -> None:
        """Take back what `add` counted."""
        self._count(voices, -1)

    def of(self, first: str, second: str) -> Counts:
        """(answers, answers) latents by the answers of the first and of the second reviewer."""
        counts = np.zeros((self._n_answers, self._n_answers), np.int64)
        is_swapped = second < first
        for answers, n in self._pairs.get(_key(first, second), {}).items():
            counts[answers[::-1] if is_swapped else answers] = n
        return counts

    def _count(self, voices: Mapping[str, int], step: int) -> None:
        if len(voices) < 2:
            return
        given = sorted(pair for pair in voices.items() if pair[1] != NOBODY)
        for (first, one), (second, other) in combinations(given, 2):
            self._pairs[first, second][one, other] += step


def _key(first: str, second: str) -> tuple[str, str]:
    return (first, second) if first < second else (second, first)
