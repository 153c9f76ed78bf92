"""The embedded judge: no language model, only the statistics of the evidence and an embedding.

The explanation is assembled from the most activating words, roles, languages and place in the turn;
the category is the one whose definition and prototypes are nearest to the text around the firing
tokens. Of the scores it knows detection alone: the texts that are most like the explanation. It
reads no marks. Template and system text is never embedded, and nothing is read of a document but
its text.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from labeler.embedding.base import Embedder
from labeler.judge.base import (
    EvidenceWindow,
    JudgeIdentity,
    JudgeReply,
    JudgeRequest,
    LatentSubject,
    OnAttempt,
    ignore_attempt,
)
from labeler.judge.languages import LanguageIdentifier
from labeler.judge.nearest import CategoryFinder
from labeler.judge.similarity import alike
from labeler.judge.snippets import Snippet, snippet
from labeler.judge.statistics import summarise
from labeler.judge.windows import content_text
from labeler.judge.wording import explanation_of
from taxonomy.canonical import canonical_text

METHOD_VERSION = 1
"""Raised whenever the same evidence could get another answer."""
MIN_TEXTS = 3
"""Different texts below which a latent is called uninterpretable."""
ENOUGH_TOP_WINDOWS = 6
"""With fewer strongest windows those of the lower quantiles are read as well."""
ENGLISH = "en"


@dataclass(frozen=True)
class _Reading:
    """What the judge reads of a latent: windows with readable text, one for each text."""

    windows: tuple[EvidenceWindow, ...]
    snippets: tuple[Snippet, ...]


class EvidenceJudge:
    """Named `evidence-` and its embedder; the same evidence always gets the same answer."""

    concurrency = 1

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._languages = LanguageIdentifier()
        self._finders: dict[tuple[object, ...], CategoryFinder] = {}
        self._identity = JudgeIdentity(
            name=f"evidence-{embedder.name}",
            model=embedder.name,
            endpoint_kind="evidence",
            params={"method": METHOD_VERSION, "embedding": embedder.fingerprint},
        )

    @property
    def identity(self) -> JudgeIdentity:
        """Name, embedding and version of the method."""
        return self._identity

    async def ask(
        self, request: JudgeRequest, on_attempt: OnAttempt = ignore_attempt
    ) -> JudgeReply:
        """Answer from the request's subject and options; the prompt is not read."""
        started = time.perf_counter()
        answer = self._answer(request)
        if answer is None:
            reply = JudgeReply("refused", error=f"{self._identity.name} answers no {request.stage}")
        else:
            reply = JudgeReply(
                "ok",
                raw=json.dumps(answer, ensure_ascii=True, sort_keys=True),
                parsed=answer,
                latency_s=time.perf_counter() - started,
            )
        await on_attempt(reply)
        return reply

    async def aclose(self) -> None:
        """Nothing is open."""

    def _answer(self, request: JudgeRequest) -> dict[str, Any] | None:
        if request.stage == "detect":
            return self._detect(request)
        if request.subject is None:
            return None
        if request.stage == "explain":
            return self._explain(request.subject)
        if request.stage == "categorize":
            return self._categorize(request)
        return None

    def _detect(self, request: JudgeRequest) -> dict[str, Any]:
        texts = [content_text(example.window) for example in request.examples]
        fires = alike(request.explanation or "", texts, self._embedder)
        return {"answers": dict(zip(request.example_ids, fires, strict=True))}

    def _explain(self, subject: LatentSubject) -> dict[str, Any]:
        reading = _read(subject)
        if len(reading.snippets) < MIN_TEXTS:
            return {
                "explanation": f"Too little evidence: {len(reading.snippets)} readable texts",
                "interpretable": False,
                "confidence": 0.0,
            }
        vectors = self._embedder.embed([piece.text for piece in reading.snippets])
        centre = vectors.mean(axis=0)
        example = reading.snippets[int(np.argmax(vectors @ centre))]
        statistics = summarise(reading.windows, self._languages)
        # The length of the mean of unit vectors: 1 where all texts are alike, 0 where unrelated.
        cohesion = min(1.0, float(np.linalg.norm(centre)))
        return {
            "explanation": explanation_of(statistics, example.text),
            "interpretable": True,
            "confidence": round(cohesion, 4),
        }

    def _categorize(self, request: JudgeRequest) -> dict[str, Any]:
        assert request.subject is not None
        if not request.subject.windows and request.explanation is not None:
            # Latents that were explained elsewhere come without evidence: the words must do.
            return self._nearest(request, [canonical_text(request.explanation)], 0.0)
        reading = _read(request.subject)
        if len(reading.snippets) < MIN_TEXTS:
            return {"outcome": "uninterpretable", "categories": []}
        texts = [piece.text for piece in reading.snippets]
        return self._nearest(request, texts, self._foreign_share(reading))

    def _nearest(
        self, request: JudgeRequest, texts: list[str], foreign_share: float
    ) -> dict[str, Any]:
        found = self._finder(request).find(self._embedder.embed(texts), foreign_share)
        return {
            "outcome": "assigned" if found else "none",
            "categories": [
                {
                    "category": item.slug,
                    "confidence": round(item.confidence, 4),
                    "quote": texts[item.snippet],
                }
                for item in found
            ],
        }

    def _finder(self, request: JudgeRequest) -> CategoryFinder:
        key = request.options
        if key not in self._finders:
            self._finders[key] = CategoryFinder.build(request.options, self._embedder)
        return self._finders[key]

    def _foreign_share(self, reading: _Reading) -> float:
        """Share of the windows that are known to be in another language than English."""
        statistics = summarise(reading.windows, self._languages)
        foreign = statistics.n_known_language * (1 - statistics.language_share(ENGLISH))
        return foreign / len(reading.windows)


def _read(subject: LatentSubject) -> _Reading:
    """Windows of the explain half on which the latent fires, each different text once."""
    shown = [window for window in subject.windows if window.split == "explain"]
    top = [window for window in shown if window.kind == "top"]
    if len(top) < ENOUGH_TOP_WINDOWS:
        top += [window for window in shown if window.kind == "quantile"]
    pieces: dict[str, tuple[EvidenceWindow, Snippet]] = {}
    for window in top:
        piece = snippet(window)
        if piece is not None:
            pieces.setdefault(piece.text, (window, piece))
    return _Reading(
        tuple(window for window, _ in pieces.values()),
        tuple(piece for _, piece in pieces.values()),
    )
