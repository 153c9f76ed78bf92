"""The evidence judge: statistics of the evidence and a sentence embedding, no language model."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from labeler.embedding.base import CachedEmbedder, Embedder
from labeler.embedding.embedders import embedder_name
from labeler.judge.background import NO_TEXT, Background
from labeler.judge.base import (
    CategoryOption,
    JudgeIdentity,
    JudgeKind,
    JudgeReply,
    JudgeRequest,
    LatentRecord,
    OnAttempt,
    ignore_attempt,
)
from labeler.judge.evidence_detection import alike
from labeler.judge.evidence_explanation import explained
from labeler.judge.evidence_statistics import (
    ENGLISH,
    LanguageIdentifier,
    foreign_share,
    read,
)
from labeler.judge.few_shot import HeadFinder, build_head_finder, heads_folder
from labeler.judge.labelled_evidence import LabelledLatent, fitting_set, labelled_sha256
from labeler.judge.latent_features import FeatureReader
from labeler.judge.lessons import Lesson
from labeler.judge.nearest_category import CategoryFinder, Finding, Found
from labeler.study.config import JUDGE_KINDS
from labeler.study.judge_config import EmbeddingSection, JudgeSection
from taxonomy.clustering import canonical_text

METHOD_VERSION = 2
"""Increased whenever the same evidence could get another answer."""


@JUDGE_KINDS.register("evidence")
class EvidenceKind(JudgeKind):
    """`kind = "evidence"`: computes on this machine with the vectors of `[embedding]`."""

    note = (
        "An embedded judge, no language model: the explanation names what sets the latent's text "
        "apart from other text, the category comes from a classifier fitted on labelled latents."
    )
    needs_embedder = True
    is_metered = False
    reads_windows = True
    writes_texts = False
    reads_background = True
    names_categories = False
    method = METHOD_VERSION
    cannot_score = MappingProxyType(
        {"fuzzing": "the evidence judge compares whole texts and reads no marks"}
    )

    def make(
        self, section: JudgeSection, folder: Path | None, embedder: Embedder | None
    ) -> EvidenceJudge:
        """A judge that computes with the embedder."""
        assert embedder is not None
        return EvidenceJudge(embedder, cache=heads_folder())

    def expected_name(self, section: JudgeSection, embedding: EmbeddingSection) -> str:
        """`evidence-` and the embedder's name."""
        return f"evidence-{embedder_name(embedding)}"


MIN_TEXTS = 3
"""Fewest different texts of an interpretable latent."""
LEAST_WORDS = 3
"""Fewest words of an answer that is compared with the categories."""
LONGEST_ANSWER = 4000
"""Characters of an answer that are read."""
UNDECIDED_BAND = 1.0
"""Scores so far below the threshold leave it open whether an answer is of the category."""
NEEDS_REQUEST = "instruction-following"
"""Slug of the category that no answer shows by itself: this judge does not read the request."""
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class EvidenceJudge:
    """Judge without a language model; the same evidence always gets the same answer."""

    concurrency = 32
    """Answers that are committed together: an answer costs less than a commit."""
    ahead = 128

    def __init__(
        self,
        embedder: Embedder,
        labelled: Sequence[LabelledLatent] | None = None,
        cache: Path | None = None,
    ) -> None:
        """Judge fitted on `labelled`, by default those of the package; fits lie in `cache`."""
        is_cached = isinstance(embedder, CachedEmbedder)
        self._embedder = embedder if is_cached else CachedEmbedder(embedder)
        self._languages = LanguageIdentifier()
        self._features = FeatureReader(self._embedder, self._languages)
        self._labelled = fitting_set() if labelled is None else tuple(labelled)
        self._cache = cache
        self._finders: dict[tuple[object, ...], CategoryFinder] = {}
        self._heads: dict[tuple[object, ...], HeadFinder | None] = {}
        self._identity = JudgeIdentity(
            name=f"evidence-{embedder.name}",
            model=embedder.name,
            endpoint_kind="evidence",
            params={
                "method": METHOD_VERSION,
                "embedding": embedder.fingerprint,
                "labelled": labelled_sha256(self._labelled),
            },
        )

    @property
    def identity(self) -> JudgeIdentity:
        """Name, embedding and version of the method."""
        return self._identity

    def read_ahead(self, requests: Sequence[JudgeRequest]) -> None:
        """Embed the texts of latents in one call; `ask` finds their vectors."""
        readings = [read(each.subject) for each in requests if each.subject is not None]
        self._features.embed_all(readings)

    def prepare(self, options: tuple[CategoryOption, ...]) -> None:
        """Fit the head for these options, or read it, before the first question."""
        self._head(options)

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
        if request.stage == "behaviour":
            return self._behaviour(request)
        if request.subject is None:
            return None
        if request.stage == "explain":
            return self._explain(request.subject, request.background or NO_TEXT)
        if request.stage == "categorize":
            return self._categorize(request)
        return None

    def _detect(self, request: JudgeRequest) -> dict[str, Any]:
        texts = [example.window for example in request.examples]
        fires = alike(request.explanation or "", texts, self._embedder, self._languages)
        return {"answers": dict(zip(request.example_ids, fires, strict=True))}

    def _behaviour(self, request: JudgeRequest) -> dict[str, Any]:
        """Compare an answer with the `behaviour` lines, by definition where there is none.

        `undecided` are categories near the threshold, and what no answer shows by itself.
        """
        text = (request.answer or "")[:LONGEST_ANSWER]
        if len(text.split()) < LEAST_WORDS:
            return {"outcome": "uninterpretable", "categories": []}
        sentences = [part for part in _SENTENCE_END.split(text) if part.strip()]
        vectors = self._embedder.embed(sentences)
        foreign = float(self._languages.identify(text) not in (None, ENGLISH))
        finder = self._finder(tuple(map(_by_behaviour, request.options)))
        scores = dict(zip(finder.index.slugs, finder.scores(vectors, foreign), strict=True))
        described = {each.slug for each in request.options if each.behaviour} - {NEEDS_REQUEST}
        found = [one for one in finder.find(vectors, foreign) if one.slug in described]
        chosen = {one.slug for one in found}
        near = finder.scale.none_threshold - UNDECIDED_BAND
        undecided = [slug for slug in described - chosen if scores[slug] >= near]
        return {
            **_assigned(found, sentences),
            "undecided": sorted({*undecided, NEEDS_REQUEST}),
        }

    def _explain(self, subject: LatentRecord, background: Background) -> dict[str, Any]:
        reading = read(subject)
        if len(reading.snippets) < MIN_TEXTS:
            return {
                "explanation": f"Too little evidence: {len(reading.snippets)} readable texts",
                "interpretable": False,
                "confidence": 0.0,
            }
        return explained(reading, self._embedder, self._languages, background)

    def _categorize(self, request: JudgeRequest) -> dict[str, Any]:
        assert request.subject is not None
        if not request.subject.windows and request.explanation is not None:
            # Latents that were explained elsewhere have no evidence: use the explanation.
            return self._nearest(request, [canonical_text(request.explanation)], 0.0)
        reading = read(request.subject)
        if len(reading.snippets) < MIN_TEXTS:
            return {"outcome": "uninterpretable", "categories": []}
        texts = [piece.text for piece in reading.snippets]
        head = self._head(request.options, request.lesson)
        if head is not None:
            return _judged(head.find(reading), texts)
        return self._nearest(request, texts, foreign_share(reading.windows, self._languages))

    def _nearest(
        self, request: JudgeRequest, texts: list[str], foreign_share: float
    ) -> dict[str, Any]:
        finder, vectors = self._finder(request.options), self._embedder.embed(texts)
        doubt = finder.doubt(vectors, foreign_share)
        return _judged(Finding(finder.find(vectors, foreign_share), doubt), texts)

    def _finder(self, options: tuple[CategoryOption, ...]) -> CategoryFinder:
        if options not in self._finders:
            self._finders[options] = CategoryFinder.build(options, self._embedder)
        return self._finders[options]

    def _head(
        self, options: tuple[CategoryOption, ...], lesson: Lesson | None = None
    ) -> HeadFinder | None:
        """The head that is fitted on the labelled latents and on what a lesson adds to them."""
        key = (options, None if lesson is None else lesson.sha256)
        if key not in self._heads:
            self._heads[key] = build_head_finder(
                options,
                self._features,
                self._finder(options),
                self._labelled,
                self._cache,
                () if lesson is None else lesson.latents,
            )
        return self._heads[key]


def _judged(finding: Finding, texts: Sequence[str]) -> dict[str, Any]:
    """Outcome, categories, and how far the choice is open."""
    return {**_assigned(finding.found, texts), "doubt": round(finding.doubt, 4)}


def _assigned(found: Sequence[Found], texts: Sequence[str]) -> dict[str, Any]:
    """Outcome and categories, each with the text that shows it."""
    return {
        "outcome": "assigned" if found else "none",
        "categories": [
            {
                "category": one.slug,
                "confidence": round(one.confidence, 4),
                "quote": texts[one.snippet],
            }
            for one in found
        ],
    }


def _by_behaviour(option: CategoryOption) -> CategoryOption:
    """The option with its `behaviour` line in place of the definition."""
    return replace(option, definition=option.behaviour) if option.behaviour else option
