"""Asks the judge for categories of explained latents, repeats the question, checks the quotes.

A judge that was shown the nearest categories and asks to see all is asked again with all of them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from crosscoder.progress import Advance, Progress, SilentProgress
from labeler.embedding.base import Embedder
from labeler.errors import UsageError
from labeler.judge.answers import SEE_ALL
from labeler.judge.base import Judge, JudgeRequest, LatentRecord, judge_kind
from labeler.judge.batch import BatchRunner, FailureLimit
from labeler.judge.calls import CallStore, Question, StoredCall
from labeler.judge.latents import latents_of, load_subjects, options_of
from labeler.judge.rendering import content_text, escaped
from labeler.labeling.category_questions import CategoryQuestions, QuestionConfig
from labeler.labeling.explanation_clusters import ExplanationCluster, cluster_explanations
from labeler.store.controls import control_latents, mixed
from labeler.store.engine import read_session, write_session
from labeler.store.judging import (
    LabelCategory,
    LabelRow,
    add_judge_labels,
    explanations_for,
    failed_explanations,
    newest_labels,
)
from labeler.store.latents import current_setting, ensure_comparison_setting
from labeler.store.outcomes import OF_ONE_REQUEST, failed_outcome
from labeler.store.schema import Category, Explanation, JudgeLabel, LabelSample, TaxonomyVersion
from labeler.store.taxonomy_moves import carry_decisions, members_of

READ_AT_ONCE = 32
"""Latents that are read in one session."""


@dataclass(frozen=True)
class SampleRow:
    """One answer to a repeated question."""

    run_id: int
    latent_id: int
    judge_id: int
    taxonomy_version_id: int
    explanation_id: int
    judge_call_id: int
    sample: int
    outcome: str
    category_id: int | None


def add_sample(session: Session, row: SampleRow) -> bool:
    """Write an answer unless it is stored already; returns whether it was new."""
    key = {
        "latent_id": row.latent_id,
        "judge_id": row.judge_id,
        "taxonomy_version_id": row.taxonomy_version_id,
        "explanation_id": row.explanation_id,
        "sample": row.sample,
        "judge_call_id": row.judge_call_id,
    }
    if session.execute(select(LabelSample.id).filter_by(**key)).first() is not None:
        return False
    session.add(
        LabelSample(**key, run_id=row.run_id, outcome=row.outcome, category_id=row.category_id)
    )
    session.flush()
    return True


@dataclass(frozen=True)
class CheckedQuote:
    """A judge's quote and whether it was found; the text is kept only where it was."""

    text: str | None
    found: bool | None
    """None where the judge quoted nothing."""


def check_quote(
    quote: str, subject: LatentRecord | None, explanation: str | None = None
) -> CheckedQuote:
    """Look for a quote in the evidence and in the explanation; white space may differ.

    The quote may have the escapes of the prompt and the marks of firing tokens.
    """
    needle = " ".join(quote.split())
    if not needle:
        return CheckedQuote(None, None)
    shown = [content_text(window) for window in subject.windows] if subject is not None else []
    if explanation is not None:
        shown.append(explanation)
    for text in shown:
        for form in (text, escaped(text)):
            if needle in " ".join(form.split()):
                return CheckedQuote(quote, True)
    unmarked = needle.replace("<<", "").replace(">>", "")
    if unmarked != needle:
        return check_quote(unmarked, subject, explanation)
    return CheckedQuote(None, False)


@dataclass(frozen=True)
class CategorizeConfig:
    """Settings of clusters, repeats and failures."""

    cluster_distance: float | None = None
    """Cosine distance at which clusters of explanations stay separate; None = swept."""
    repeats: int = 1
    """Requests per latent, each with the categories in another order."""
    questions: QuestionConfig = field(default_factory=QuestionConfig)
    seed: int = 0
    """Seed of the sweep."""
    activate: bool = True
    """Whether judge and version become active; False for a further judge."""
    failure_limit: FailureLimit = field(default_factory=FailureLimit)


@dataclass(frozen=True)
class CategorizeSummary:
    """Counts of the latents; the outcomes, `n_carried` and `n_without_explanation` sum to
    `n_latents`."""

    judge_id: int
    n_latents: int
    n_assigned: int
    n_none: int
    n_uninterpretable: int
    n_error: int
    ended: dict[str, tuple[int, ...]]
    """Latents whose request is too long or was refused, by outcome; nobody asks again."""
    n_without_explanation: int
    """Latents without an explanation, because it failed; run `label` again."""
    n_reused: int
    """Latents whose answer came from an earlier run."""
    n_carried: int
    """Latents whose label was carried from the version before, without a request."""
    n_saw_all: int
    """Latents for which the judge asked to see the categories beyond the shortlist."""
    n_quotes_not_found: int
    """Categories whose quote is neither in the evidence nor in the explanation."""
    clusters: tuple[ExplanationCluster, ...]
    """Groups of similar explanations, largest first."""
    note: str | None = None
    """Why the judge was shown every category, where a shortlist was wanted."""


def categorize(
    engine: Engine,
    judge: Judge,
    embedder: Embedder,
    taxonomy_version_id: int,
    comparison_ids: Sequence[int],
    run_id: int,
    config: CategorizeConfig | None = None,
    progress: Progress | None = None,
    others: Sequence[int] = (),
) -> CategorizeSummary:
    """Ask the judge for the categories of every latent of the comparisons, then make it active.

    `others` are latents on no side, asked about after those; like controls they are not counted.

    Labels and effective labels are committed as they arrive; an answered request is not sent
    again. Another active judge or version stays active until all latents are done. Raises
    UsageError for a taxonomy without categories, WorkError where the judge cannot go on or fails
    too often.
    """
    config = config or CategorizeConfig()
    store = CallStore(engine, judge.identity, run_id)
    with write_session(engine) as session:
        options = options_of(session, taxonomy_version_id)
        if not options:
            raise UsageError("taxonomy: the version has no categories; give it some")
        latents = latents_of(session, comparison_ids)
        controls = control_latents(session, comparison_ids)
        for comparison_id in comparison_ids:
            if current_setting(session, comparison_id) is None:
                ensure_comparison_setting(
                    session, comparison_id, taxonomy_version_id, store.judge_id
                )
    reads_windows = judge_kind(judge.identity.endpoint_kind).reads_windows
    questions = CategoryQuestions(options, embedder, config.questions, reads_windows)
    progress = progress or SilentProgress()
    asked = list(dict.fromkeys([*mixed(latents, controls), *others]))
    with progress.task("categorize", len(asked), "latents") as advance:
        counted = frozenset(latents)
        work = _Categorizer(
            engine, store, run_id, taxonomy_version_id, questions, config, advance, counted
        )
        asyncio.run(work.run(judge, asked, config.failure_limit))
    with write_session(engine) as session:
        for comparison_id in comparison_ids if config.activate else ():
            _keep_decisions(session, comparison_id, taxonomy_version_id)
            ensure_comparison_setting(session, comparison_id, taxonomy_version_id, store.judge_id)
    with read_session(engine) as session:
        clusters = cluster_explanations(
            session, embedder, latents, store.judge_id, config.cluster_distance, config.seed
        )
    return CategorizeSummary(
        judge_id=store.judge_id,
        n_latents=len(latents),
        n_assigned=work.outcomes["assigned"],
        n_none=work.outcomes["none"],
        n_uninterpretable=work.outcomes["uninterpretable"],
        n_error=work.outcomes["error"],
        ended={name: tuple(latents) for name, latents in work.ended.items()},
        n_without_explanation=work.without_explanation,
        n_reused=work.reused,
        n_carried=work.carried,
        n_saw_all=work.saw_all,
        n_quotes_not_found=work.quotes_not_found,
        clusters=clusters,
        note=questions.note,
    )


@dataclass
class _Categorizer:
    """One batch of categorisations."""

    engine: Engine
    store: CallStore
    run_id: int
    version_id: int
    questions: CategoryQuestions
    config: CategorizeConfig
    advance: Advance
    counted: frozenset[int]
    """The latents of the comparisons; all others are not counted."""
    outcomes: Counter[str] = field(default_factory=Counter)
    ended: dict[str, list[int]] = field(default_factory=dict)
    without_explanation: int = 0
    reused: int = 0
    carried: int = 0
    quotes_not_found: int = 0
    saw_all: int = 0
    follow_ups: list[Question] = field(default_factory=list)
    """Questions with every category, for answers that asked to see them."""

    async def run(self, judge: Judge, latents: Sequence[int], limit: FailureLimit) -> None:
        """Ask for all of them."""
        with read_session(self.engine) as session:
            rows = session.execute(
                select(Category.slug, Category.id).where(
                    Category.taxonomy_version_id == self.version_id
                )
            )
            self._category_ids = {row.slug: row.id for row in rows}
        for questions in (self._questions(latents), self.follow_ups):
            await BatchRunner(judge, self.store, limit).run(questions, self._count, self._keep)

    def _questions(self, latents: Sequence[int]) -> Iterator[Question]:
        left = iter(latents)
        while part := list(islice(left, READ_AT_ONCE)):
            yield from self._questions_about(part)

    def _questions_about(self, latents: Sequence[int]) -> list[Question]:
        """Questions about some latents; the label of one that needs no question is written."""
        with read_session(self.engine) as session:
            explanations = explanations_for(session, latents, self.store.judge_id)
            subjects = load_subjects(session, latents)
            newest = newest_labels(session, latents, self.store.judge_id, self.version_id)
            failed = failed_explanations(session, explanations.values())
        questions: list[Question] = []
        labels: list[LabelRow] = []
        for subject in subjects:
            latent_id = subject.latent_id
            explanation = explanations.get(latent_id)
            if _keeps_carried_label(newest.get(latent_id), explanation):
                self.carried += latent_id in self.counted
                self.advance(1)
            elif explanation is None:
                self.without_explanation += latent_id in self.counted
                self.advance(1)
            elif explanation.id in failed:
                outcome, call_id = failed[explanation.id], explanation.judge_call_id
                labels.append(self._label(latent_id, explanation, outcome, call_id))
            elif not explanation.interpretable:
                labels.append(self._label(latent_id, explanation, "uninterpretable", None))
            else:
                questions += self._repeated(subject, explanation.text)
        if labels:
            with write_session(self.engine) as session:
                self._add_labels(session, labels)
            for label in labels:
                self._tally(label.latent_id, label.outcome)
        return questions

    def _repeated(self, subject: LatentRecord, explanation: str) -> Iterator[Question]:
        """The question about a latent, as often as it is asked."""
        for sample in range(self.config.repeats):
            request = self.questions.first(subject, explanation, sample)
            yield Question(subject.latent_id, request)

    def _count(self, question: Question, call: StoredCall) -> None:
        is_counted = question.request.sample == 0 and question.latent_id in self.counted
        if _asks_for_all(call):
            self.saw_all += is_counted
            whole = self.questions.whole(question.request)
            self.follow_ups.append(Question(question.latent_id, whole))
        elif question.request.sample == 0:
            self.reused += is_counted and not call.was_asked
            self._tally(question.latent_id, _answer_of(call)["outcome"])

    def _tally(self, latent_id: int, outcome: str) -> None:
        """Count the outcome of a latent."""
        self.outcomes[outcome] += latent_id in self.counted
        if outcome in OF_ONE_REQUEST and latent_id in self.counted:
            self.ended.setdefault(outcome, []).append(latent_id)
        self.advance(1)

    def _keep(self, answers: Sequence[tuple[Question, StoredCall]]) -> None:
        """Write the labels and the repeated answers of a batch."""
        answers = [(question, call) for question, call in answers if not _asks_for_all(call)]
        chosen = [
            (question, call, _answer_of(call), self._categories(question, call))
            for question, call in answers
        ]
        latents = {question.latent_id for question, _ in answers}
        labels = []
        with write_session(self.engine) as session:
            explanations = explanations_for(session, latents, self.store.judge_id)
            for question, call, answer, categories in chosen:
                explanation = explanations.get(question.latent_id)
                if question.request.sample == 0:
                    labels.append(
                        self._label(
                            question.latent_id, explanation, answer["outcome"], call.id, categories
                        )
                    )
                elif explanation is not None:
                    add_sample(session, self._sample(question, call.id, explanation, answer))
            self._add_labels(session, labels)

    def _sample(
        self, question: Question, call_id: int, explanation: Explanation, answer: dict[str, Any]
    ) -> SampleRow:
        chosen = answer["categories"]
        return SampleRow(
            run_id=self.run_id,
            latent_id=question.latent_id,
            judge_id=self.store.judge_id,
            taxonomy_version_id=self.version_id,
            explanation_id=explanation.id,
            judge_call_id=call_id,
            sample=question.request.sample,
            outcome=answer["outcome"],
            category_id=self._category_ids[chosen[0]["category"]] if chosen else None,
        )

    def _categories(self, question: Question, call: StoredCall) -> tuple[LabelCategory, ...]:
        """The categories of a first answer, their quotes checked."""
        if question.request.sample:
            return ()
        return tuple(
            self._category(chosen, question.request) for chosen in _answer_of(call)["categories"]
        )

    def _category(self, chosen: dict[str, Any], request: JudgeRequest) -> LabelCategory:
        quote = check_quote(chosen["quote"], request.subject, request.explanation)
        self.quotes_not_found += quote.found is False
        return LabelCategory(
            category_id=self._category_ids[chosen["category"]],
            confidence=chosen["confidence"],
            quote=quote.text,
            quote_found=quote.found,
        )

    def _label(
        self,
        latent_id: int,
        explanation: Explanation | None,
        outcome: str,
        call_id: int | None,
        categories: tuple[LabelCategory, ...] = (),
    ) -> LabelRow:
        return LabelRow(
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

    def _add_labels(self, session: Session, labels: Sequence[LabelRow]) -> None:
        """Write labels, except those whose newest has the same call, explanation and outcome."""
        latents = [label.latent_id for label in labels]
        newest = newest_labels(session, latents, self.store.judge_id, self.version_id)
        fresh = [label for label in labels if not _is_written(label, newest.get(label.latent_id))]
        if fresh:
            add_judge_labels(session, fresh)


def _answer_of(call: StoredCall) -> dict[str, Any]:
    return call.parsed or {"outcome": failed_outcome(call.status), "categories": []}


def _asks_for_all(call: StoredCall) -> bool:
    return call.parsed is not None and str(call.parsed["outcome"]) == SEE_ALL


def _keep_decisions(session: Session, comparison_id: int, taxonomy_version_id: int) -> None:
    """Carry reviewers' decisions to a version of the same name, by equal slug."""
    setting = current_setting(session, comparison_id)
    if setting is None or setting.taxonomy_version_id == taxonomy_version_id:
        return
    old = session.get_one(TaxonomyVersion, setting.taxonomy_version_id)
    if old.name == session.get_one(TaxonomyVersion, taxonomy_version_id).name:
        carry_decisions(session, old.id, taxonomy_version_id, members_of(session, comparison_id))


def _keeps_carried_label(label: JudgeLabel | None, explanation: Explanation | None) -> bool:
    """Whether a latent's newest label was carried and its explanation is still current."""
    if label is None or label.carried_from_id is None:
        return False
    return explanation is None or label.explanation_id in (None, explanation.id)


def _is_written(label: LabelRow, newest: JudgeLabel | None) -> bool:
    return newest is not None and (
        (newest.judge_call_id, newest.explanation_id, newest.outcome)
        == (label.judge_call_id, label.explanation_id, label.outcome)
    )
