"""Finds reviewed latents that fire on similar texts, as examples for a judge that reads prompts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from labeler.embedding.base import Embedder
from labeler.judge.base import LatentRecord
from labeler.judge.evidence_statistics import read
from labeler.judge.labelled_evidence import LabelledLatent
from labeler.judge.lessons import MOST_REVIEWED, Lesson

LEAST_SIMILARITY = 0.4
"""Cosine of the mean sentence vectors from which a reviewed latent is an example."""


class SimilarReviewed:
    """Compares latents by the mean vector of the sentences in which they fire."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._vectors: dict[str, NDArray[np.float64] | None] = {}

    def nearest(self, subject: LatentRecord, lesson: Lesson | None) -> tuple[LabelledLatent, ...]:
        """The most similar latents of a lesson, the most similar first; ties in its order."""
        own = self._vector(subject)
        if lesson is None or own is None:
            return ()
        found = []
        for latent in lesson.latents:
            other = self._known(latent)
            similarity = 0.0 if other is None else round(float(own @ other), 4)
            if similarity >= LEAST_SIMILARITY:
                found.append((similarity, latent))
        found.sort(key=lambda pair: -pair[0])
        return tuple(latent for _, latent in found[:MOST_REVIEWED])

    def _known(self, latent: LabelledLatent) -> NDArray[np.float64] | None:
        if latent.name not in self._vectors:
            self._vectors[latent.name] = self._vector(latent.subject)
        return self._vectors[latent.name]

    def _vector(self, subject: LatentRecord) -> NDArray[np.float64] | None:
        return centre_of(subject, self._embedder)


def centre_of(subject: LatentRecord, embedder: Embedder) -> NDArray[np.float64] | None:
    """Mean vector (e,), of length 1, of the sentences in which a latent fires; None without any."""
    texts = [piece.text for piece in read(subject).snippets]
    if not texts:
        return None
    mean = np.asarray(embedder.embed(texts), dtype=np.float64).mean(axis=0)
    length = float(np.linalg.norm(mean))
    return mean / length if length > 0 else None
