"""Explanations of a planted taxonomy, with an embedding and a namer that know only words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from taxonomy.induction import NamingTask, PairTask
from taxonomy.tree import CategoryName

TOPICS = {
    "cooking": ("onions", "butter", "ovens", "soup", "bread", "salt"),
    "weather": ("rain", "snow", "storms", "clouds", "frost", "wind"),
    "music": ("violins", "drums", "choirs", "pianos", "flutes", "scales"),
}


def explanations(each: int = 6) -> list[str]:
    """`each` explanations of every topic, no two the same."""
    return [
        f"This latent fires on {word} in {topic}, case {number}"
        for number in range(each)
        for topic, words in TOPICS.items()
        for word in [words[number % len(words)]]
    ]


def embed(texts: Sequence[str]) -> np.ndarray:
    """Vectors by topic word, with a little of every other word."""
    rows = np.zeros((len(texts), 16))
    for row, text in enumerate(texts):
        for column, topic in enumerate(TOPICS):
            rows[row, column] = 3.0 * (topic in text)
        for word in text.split():
            rows[row, 3 + sum(map(ord, word)) % 13] += 0.3
    return rows


def name_by_topic(tasks: Sequence[NamingTask]) -> list[CategoryName | None]:
    """The topic that most members speak of."""
    answers: list[CategoryName | None] = []
    for task in tasks:
        counts = {topic: sum(topic in text for text in task.members) for topic in TOPICS}
        best = max(counts, key=lambda topic: counts[topic])
        answers.append(CategoryName(best.title(), f"Texts about {best}.") if counts[best] else None)
    return answers


def never_merge(tasks: Sequence[PairTask]) -> list[bool]:
    """All categories are different."""
    return [False for _ in tasks]
