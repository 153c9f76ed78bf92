"""Stage `categorize`: explained latents get categories, and explanations are grouped."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from crosscoder.progress import Advance, Progress, SilentProgress
from labeler.embedding.base import Embedder
from labeler.errors import UsageError
from labeler.explanation_clusters import ExplanationCluster, cluster_explanations
from labeler.judge.base import CategoryOption, Judge, LatentSubject
from labeler.judge.calls import CallStore, Question, StoredCall
from labeler.judge.pool import AskPool, FailureLimit
from labeler.judge.requests import categorize_request
from labeler.judge.subjects import latents_of, load_subject, options_of
from labeler.judge.windows import content_text
from labeler.labeling import newest_explanation
from labeler.store.engine import read_session, write_session
from labeler.store.judging_records import LabelCategory, LabelRow, add_judge_label
from labeler.store.latent_records import current_setting, ensure_comparison_setting
from labeler.store.schema import Category, Explanation, JudgeLabel


@dataclass(frozen=True)
class CategorizeConfig:
    """How explanations are grouped and when a batch is given up."""

    cluster_distance: float = 0.5
    """Cosine distance at which average-linkage clusters stop merging."""
    failure_limit: FailureLimit = field(default_factory=FailureLimit)


@dataclass(frozen=True)
class CategorizeSummary:
    """What became of the latents; the outcomes and `n_without_explanation` sum to `n_latents`."""

    judge_id: int
    n_latents: int
    n_assigned: int
    n_none: int
    n_uninterpretable: int
    n_error: int
    n_without_explanation: int
    """Nothing was asked about these: their explanation failed; run `label` again."""
    n_reused: int
    """Latents whose answer an earlier run had paid for."""
    clusters: tuple[ExplanationCluster, ...]
    """Groups of like explanations, largest first."""


def categorize(
    engine: Engine,
    judge: Judge,
    embedder: Embedder,
    taxonomy_version_id: int,
    comparison_ids: Sequence[int],
    run_id: int,
    config: CategorizeConfig | None = None,
    progress: Progress | None = None,
) -> CategorizeSummary:
    """Ask the judge for the categories of every latent of the comparisons, then put it in force.

    Labels are committed as they arrive, effective labels with them; a request that was ever
    answered is not sent again. Where another judge or version is in force it stays so until all
    latents are done. Raises UsageError for a taxonomy without categories, WorkError when the
    judge can not go on or fails too often.
    """
    config = config or CategorizeConfig()
    store = CallStore(engine, judge.identity, run_id)
    with write_session(engine) as session:
        options = options_of(session, taxonomy_version_id)
        if not options:
            raise UsageError("taxonomy: the version has no categories; give it some")
        latents = latents_of(session, comparison_ids)
        for comparison_id in comparison_ids:
            if current_setting(session, comparison_id) is None:
                ensure_comparison_setting(
                    session, comparison_id, taxonomy_version_id, store.judge_id
                )
    progress = progress or SilentProgress()
    with progress.task("categorize", len(latents), "latents") as advance:
        work = _Categorizer(engine, store, run_id, taxonomy_version_id, options, advance)
        asyncio.run(work.run(judge, latents, config.failure_limit))
    with write_session(engine) as session:
        for comparison_id in comparison_ids:
            ensure_comparison_setting(session, comparison_id, taxonomy_version_id, store.judge_id)
    with read_session(engine) as session:
        clusters = cluster_explanations(
            session, embedder, latents, store.judge_id, config.cluster_distance
        )
    return CategorizeSummary(
        judge_id=store.judge_id,
        n_latents=len(latents),
        n_assigned=work.outcomes["assigned"],
        n_none=work.outcomes["none"],
        n_uninterpretable=work.outcomes["uninterpretable"],
        n_error=work.outcomes["error"],
        n_without_explanation=work.without_explanation,
        n_reused=work.reused,
        clusters=clusters,
    )


@dataclass
class _Categorizer:
    """One batch of categorisations."""

    engine: Engine
    store: CallStore
    run_id: int
    version_id: int
    options: tuple[CategoryOption, ...]
    advance: Advance
    outcomes: Counter[str] = field(default_factory=Counter)
    without_explanation: int = 0
    reused: int = 0

    async def run(self, judge: Judge, latents: Sequence[int], limit: FailureLimit) -> None:
        """Ask for all of them."""
        with read_session(self.engine) as session:
            rows = session.execute(
                select(Category.slug, Category.id).where(
                    Category.taxonomy_version_id == self.version_id
                )
            )
            self._category_ids = {row.slug: row.id for row in rows}
        pool = AskPool(judge, self.store, limit)
        await pool.run(self._questions(latents), self._keep)

    def _questions(self, latents: Sequence[int]) -> Iterator[Question]:
        for latent_id in latents:
            with read_session(self.engine) as session:
                explanation = newest_explanation(session, latent_id, self.store.judge_id)
                subject = load_subject(session, latent_id)
            if explanation is None:
                self.without_explanation += 1
                self.advance(1)
            elif not explanation.interpretable:
                self._write(latent_id, explanation, "uninterpretable", None, ())
            else:
                request = categorize_request(subject, explanation.text, self.options)
                yield Question(latent_id, request)

    def _keep(self, question: Question, call: StoredCall) -> None:
        self.reused += not call.was_asked
        with read_session(self.engine) as session:
            explanation = newest_explanation(session, question.latent_id, self.store.judge_id)
        answer = call.parsed or {"outcome": "error", "categories": []}
        categories = tuple(
            self._category(chosen, question.request.subject) for chosen in answer["categories"]
        )
        self._write(question.latent_id, explanation, answer["outcome"], call.id, categories)

    def _category(self, chosen: dict[str, Any], subject: LatentSubject | None) -> LabelCategory:
        return LabelCategory(
            category_id=self._category_ids[chosen["category"]],
            confidence=chosen["confidence"],
            quote=verified_quote(chosen["quote"], subject),
        )

    def _write(
        self,
        latent_id: int,
        explanation: Explanation | None,
        outcome: str,
        call_id: int | None,
        categories: tuple[LabelCategory, ...],
    ) -> None:
        """Write the label, unless the newest one of this judge came from the same words."""
        label = LabelRow(
            run_id=self.run_id,
            latent_id=latent_id,
            judge_id=self.store.judge_id,
            taxonomy_version_id=self.version_id,
            outcome=outcome,
            categories=categories,
            explanation_id=explanation.id if explanation is not None else None,
            judge_call_id=call_id,
            confidence=categories[0].confidence if categories else None,
        )
        with write_session(self.engine) as session:
            if not _is_newest(session, label):
                add_judge_label(session, label)
        self.outcomes[outcome] += 1
        self.advance(1)


def verified_quote(quote: str, subject: LatentSubject | None) -> str | None:
    """The quote, where it occurs in the evidence (white space aside); None for invented words."""
    wanted = " ".join(quote.split())
    if not wanted or subject is None:
        return None
    texts = (" ".join(content_text(window).split()) for window in subject.windows)
    return quote if any(wanted in text for text in texts) else None


def _is_newest(session: Session, label: LabelRow) -> bool:
    newest = session.execute(
        select(JudgeLabel)
        .where(
            JudgeLabel.latent_id == label.latent_id,
            JudgeLabel.judge_id == label.judge_id,
            JudgeLabel.taxonomy_version_id == label.taxonomy_version_id,
            JudgeLabel.is_control.is_(False),
        )
        .order_by(JudgeLabel.id.desc())
        .limit(1)
    ).scalar_one_or_none()
    return newest is not None and (
        (newest.judge_call_id, newest.explanation_id, newest.outcome)
        == (label.judge_call_id, label.explanation_id, label.outcome)
    )
