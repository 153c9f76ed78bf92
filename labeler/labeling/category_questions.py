"""Which categories a judge chooses from: a shortlist or all, shuffled for each latent."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from labeler.embedding.base import CachedEmbedder, Embedder
from labeler.embedding.embedders import is_sentence_embedder
from labeler.judge.base import CategoryOption, JudgeRequest, LatentRecord
from labeler.judge.labelled_evidence import NONE, LabelledLatent
from labeler.judge.lessons import Lessons
from labeler.judge.prompt_limits import PromptLimits
from labeler.judge.prompts import categorize_request
from labeler.judge.shortlist import Shortlister
from labeler.judge.similar_reviewed import SimilarReviewed

SHORTLIST = 8
"""Categories that a judge is shown with their definitions, unless it asks for all."""


@dataclass(frozen=True)
class QuestionConfig:
    """How a judge is asked for categories."""

    shortlist: int = SHORTLIST
    """Categories that are shown with their definitions; 0 = all."""
    limits: PromptLimits = field(default_factory=PromptLimits)
    labelled: Sequence[LabelledLatent] | None = None
    """Latents on which the shortlist's ranking is fitted; None = those of the package."""
    fits: Path | None = None
    """Folder of fits that were made before."""
    lessons: Lessons | None = None
    """The reviewed latents that the judge learns from."""


class CategoryQuestions:
    """Makes the requests for the categories of latents.

    A judge that reads windows gets every category in the taxonomy's order. A judge that reads
    prompts gets the nearest ones, in an order of each latent, and may ask to see all. It is shown
    similar latents that were reviewed; the other judge gets every one outside the latent's fold.
    """

    def __init__(
        self,
        options: Sequence[CategoryOption],
        embedder: Embedder,
        config: QuestionConfig,
        reads_windows: bool,
    ) -> None:
        self._options = tuple(options)
        self._config = config
        self._reads_windows = reads_windows
        self._shortlister: Shortlister | None = None
        self._similar: SimilarReviewed | None = None
        self.note: str | None = None
        """Why every category is shown, where a shortlist was wanted."""
        if reads_windows:
            return
        wants_shortlist = 0 < config.shortlist < len(self._options)
        if is_sentence_embedder(embedder):
            cached = CachedEmbedder(embedder)
            self._similar = SimilarReviewed(cached)
            if wants_shortlist:
                self._shortlister = Shortlister(
                    self._options, cached, config.shortlist, config.labelled, config.fits
                )
        elif wants_shortlist:
            self.note = "no sentence model, so the judge is shown every category"

    def first(self, subject: LatentRecord, explanation: str, sample: int) -> JudgeRequest:
        """The request that is sent first, with the shortlist where there is one."""
        if self._reads_windows:
            request = categorize_request(subject, explanation, self._options, sample)
            lessons = self._config.lessons
            return replace(request, lesson=lessons.for_latent(subject) if lessons else None)
        if self._shortlister is None:
            return self._ask(subject, explanation, self._options, sample)
        shown = self._shortlister.nearest(subject, explanation)
        return self._ask(subject, explanation, shown, sample)

    def whole(self, request: JudgeRequest) -> JudgeRequest:
        """The request with every category, for a judge that asks to see all."""
        assert request.subject is not None
        assert request.explanation is not None
        return self.everything(request.subject, request.explanation, request.sample)

    def everything(self, subject: LatentRecord, explanation: str, sample: int = 0) -> JudgeRequest:
        """A request with every category."""
        return self._ask(subject, explanation, self._options, sample)

    def _ask(
        self,
        subject: LatentRecord,
        explanation: str,
        shown: Sequence[CategoryOption],
        sample: int,
    ) -> JudgeRequest:
        reviewed = self._reviewed(subject)
        slugs = {*(option.slug for option in shown), *(latent.category for latent in reviewed)}
        shown = [option for option in self._options if option.slug in slugs]
        further = [option.slug for option in self._options if option.slug not in slugs]
        options = shuffled_options(shown, subject, sample)
        limit = self._config.limits.categorize
        return categorize_request(subject, explanation, options, sample, further, limit, reviewed)

    def _reviewed(self, subject: LatentRecord) -> tuple[LabelledLatent, ...]:
        """The most similar reviewed latents whose category is one of the options, or `none`."""
        if self._config.lessons is None or self._similar is None:
            return ()
        known = {NONE, *(option.slug for option in self._options)}
        lesson = self._config.lessons.for_latent(subject)
        found = self._similar.nearest(subject, lesson)
        return tuple(latent for latent in found if latent.category in known)


def shuffled_options(
    options: Sequence[CategoryOption], subject: LatentRecord, sample: int
) -> tuple[CategoryOption, ...]:
    """The categories in an order drawn by the latent and the sample's number.

    Crosscoder and index seed the draw, so that a latent has the same order in every database.
    """
    order = sorted(options, key=lambda option: option.slug)
    random.Random(f"{subject.crosscoder} {subject.latent_index} {sample}").shuffle(order)
    return tuple(order)
