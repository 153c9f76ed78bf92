"""What the head of the evidence judge reads of a latent: numbers from its examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labeler.embedding.base import Embedder
from labeler.judge.base import Example
from labeler.judge.evidence_statistics import (
    LanguageIdentifier,
    Reading,
    edge_of_turn,
    language_of,
    peak_turn,
    share_not_english,
    strong_positions,
)
from labeler.judge.nearest_category import CategoryFinder
from labeler.judge.rendering import joined
from labeler.judge.token_kinds import KINDS, SMALL_KINDS, ActiveTokens, active_tokens, mean_shares
from taxonomy.category_head import HeadRows

Floats = NDArray[np.float64]

SENTENCE_SCALE, PHRASE_SCALE, TOKEN_SCALE, COHESION_SCALE, SIMILARITY_SCALE = (
    6.0,
    4.0,
    3.0,
    5.0,
    0.2,
)
"""Scales of the blocks of features: the larger, the less the ridge holds their weights back.

Chosen by cross-validation on the fitting set and on hand-labelled latents of two other studies."""
MOSTLY = 0.85
"""Share of the activation from which a latent counts as firing on small tokens alone."""
LONGEST_PHRASE = 300
"""Characters of an active phrase that are embedded."""


@dataclass(frozen=True)
class ExampleFeatures:
    """One example's part of the features."""

    sentence: Floats
    """(e,) vector of the sentences in which the latent fires."""
    phrase: Floats
    """(e,) vector of the active words alone."""
    tokens: ActiveTokens
    language: str | None
    edge: str | None
    role: str | None


class FeatureReader:
    """Turns readings into features; texts are embedded by `embedder`."""

    def __init__(self, embedder: Embedder, languages: LanguageIdentifier) -> None:
        self._embedder = embedder
        self._languages = languages

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the embedder."""
        return self._embedder.fingerprint

    def embed_all(self, readings: Sequence[Reading]) -> None:
        """Embed the texts of readings in one call; `examples` finds their vectors in the cache."""
        texts = [text for reading in readings for text in self.texts(reading)]
        self._embedder.embed(list(dict.fromkeys(texts)))

    def texts(self, reading: Reading) -> list[str]:
        """All texts of a reading that `examples` embeds."""
        return [piece.text for piece in reading.snippets] + [
            active_phrase(window) for window in reading.windows
        ]

    def examples(self, reading: Reading) -> list[ExampleFeatures]:
        """Features of each example of a reading with at least one."""
        n = len(reading.windows)
        vectors = np.asarray(self._embedder.embed(self.texts(reading)), dtype=np.float64)
        found = []
        for row, window in enumerate(reading.windows):
            turn = peak_turn(window)
            found.append(
                ExampleFeatures(
                    sentence=vectors[row],
                    phrase=vectors[n + row],
                    tokens=active_tokens(window),
                    language=language_of(window, self._languages),
                    edge=edge_of_turn(window),
                    role=turn.role if turn is not None else None,
                )
            )
        return found


def active_phrase(window: Example) -> str:
    """The words on which an example fires strongly, joined; a full stop where there is none."""
    turn = peak_turn(window)
    if turn is None:
        return "."
    runs: list[list[int]] = []
    for position in strong_positions(window, turn):
        if runs and runs[-1][-1] == position - 1:
            runs[-1].append(position)
        else:
            runs.append([position])
    parts = [joined(window, range(run[0], run[-1] + 1)).strip() for run in runs]
    return " ".join(part for part in parts if part)[:LONGEST_PHRASE] or "."


def foreign_share(examples: Sequence[ExampleFeatures]) -> float:
    """Share of the examples that are known not to be in English."""
    return share_not_english([example.language for example in examples])


def head_rows(latents: Sequence[Sequence[ExampleFeatures]], finder: CategoryFinder) -> HeadRows:
    """Features (n, d) of latents, and their similarities (n, C) to the leaves.

    Each latent has at least one example; in a resample one may occur several times.
    """
    centres = np.stack([_mean([one.sentence for one in examples]) for examples in latents])
    foreign = np.array([foreign_share(examples) for examples in latents])
    similarities = finder.scores_of_centres(centres, foreign)
    features = np.hstack(
        [
            SENTENCE_SCALE * centres,
            PHRASE_SCALE * np.stack([_mean([one.phrase for one in each]) for each in latents]),
            TOKEN_SCALE * np.stack([_token_shares(examples) for examples in latents]),
            COHESION_SCALE * np.array([[_cohesion(examples)] for examples in latents]),
            SIMILARITY_SCALE * similarities,
        ]
    )
    return HeadRows(features, similarities)


def _mean(vectors: Sequence[Floats]) -> Floats:
    result: Floats = np.mean(vectors, axis=0)
    return result


def _token_shares(examples: Sequence[ExampleFeatures]) -> Floats:
    """Shares of activation by kind and on the leading words, and of examples by place and role."""
    n = len(examples)
    kinds = mean_shares([example.tokens.by_kind for example in examples])
    words = sorted(mean_shares([one.tokens.by_word for one in examples]).values(), reverse=True)
    content = mean_shares([one.tokens.by_content_word for one in examples]).values()
    small = sum(kinds.get(kind, 0.0) for kind in SMALL_KINDS)
    places = [
        sum(example.edge == "start" for example in examples) / n,
        sum(example.edge == "end" for example in examples) / n,
        sum(example.role == "user" for example in examples) / n,
        sum(example.role == "plain" for example in examples) / n,
    ]
    leading = [sum(words[:1]), sum(words[:4]), max(content, default=0.0)]
    shares = [kinds.get(kind, 0.0) for kind in KINDS]
    return np.array([*shares, *leading, float(small > MOSTLY), foreign_share(examples), *places])


def _cohesion(examples: Sequence[ExampleFeatures]) -> float:
    """Mean cosine between the sentences of different examples; 0 with a single one."""
    unique = {id(example): example.sentence for example in examples}
    n = len(unique)
    if n < 2:
        return 0.0
    length = float(np.linalg.norm(np.mean(list(unique.values()), axis=0)))
    return (length**2 * n - 1) / (n - 1)
