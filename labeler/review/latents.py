"""Everything that the page of one latent shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Select, bindparam, select, text
from sqlalchemy.orm import Session, aliased

from labeler.report.basis import sets_of, shift_words
from labeler.report.html import largest_activation
from labeler.report.latent_effects import (
    LatentEffectView,
    PatchedSet,
    read_latent_effects,
    read_patched_sets,
)
from labeler.report.latents import evidence_view
from labeler.report.model import EvidenceView, Measure
from labeler.review.queue_table import QueueTable
from labeler.review.queued_latents import QueuedLatent, Setting
from labeler.store.effective_rule import standing_events
from labeler.store.experiments import TestedLatent, latent_tests
from labeler.store.history import HistoryEntry, latent_history
from labeler.store.latents import evidence_of
from labeler.store.outcomes import ANSWERS
from labeler.store.schema import (
    Category,
    Comparison,
    Explanation,
    ExplanationScore,
    Judge,
    JudgeLabel,
    JudgeLabelCategory,
    Latent,
    LatentScaling,
    ReviewEvent,
    ReviewEventCategory,
    SubjectModel,
)
from labeler.store.views.base import ADJUDICATED

EVIDENCE_TITLES = {
    "top": "Where it fires most",
    "quantile": "At lower strengths",
    "other_model": "On the other model's text",
    "negative": "Where it does not fire",
}
MOST_WINDOWS = {"top": 24, "quantile": 16, "other_model": 8, "negative": 8}


@dataclass(frozen=True)
class RunCategory:
    """A category that a judge gave."""

    slug: str
    confidence: float | None
    quote: str | None


@dataclass(frozen=True)
class JudgeRun:
    """One label of one judge."""

    label_id: int
    judge: str
    run_id: int
    outcome: str
    categories: tuple[RunCategory, ...]
    explanation_id: int | None
    explanation: str | None
    in_force: bool
    """Whether this is what `accept` accepts."""
    created_at: datetime

    @property
    def answer(self) -> str:
        """The label in one word."""
        return self.categories[0].slug if self.categories else self.outcome

    @property
    def usable(self) -> bool:
        """Whether it can be accepted."""
        return self.outcome in ANSWERS


@dataclass(frozen=True)
class Voice:
    """The decision that stands in one reviewer's stream."""

    reviewer: str
    event_id: int
    revision: int
    action: str
    categories: tuple[str, ...]
    explanation: str | None
    note: str | None
    created_at: datetime
    entered_by: str | None = None


@dataclass(frozen=True)
class Scaling:
    """Latent scaling for one ordered pair of models."""

    target: str
    reference: str
    delta_norm: float | None
    nu_error: Measure
    nu_reconstruction: Measure


@dataclass(frozen=True)
class Score:
    """How well an explanation predicted evidence that it never saw."""

    judge: str
    method: str
    value: Measure
    n_asked: int
    n_parsed: int


@dataclass(frozen=True)
class EvidenceGroup:
    """Windows of one kind."""

    kind: str
    title: str
    windows: tuple[EvidenceView, ...]
    n_more: int


@dataclass(frozen=True)
class LatentPage:
    """One latent as one reviewer may see it."""

    latent: QueuedLatent
    hidden: bool
    """The judge's words, and everybody else's, are to be hidden."""
    stream: str
    """Whose stream the form writes to."""
    base_revision: int
    standing: Voice | None
    """What stands in that stream."""
    runs: tuple[JudgeRun, ...]
    voices: tuple[Voice, ...]
    scores: tuple[Score, ...]
    tests: tuple[TestedLatent, ...]
    """Experiments on the explanations."""
    scaling: tuple[Scaling, ...]
    shift: Measure
    """Strength shift in this comparison, below 0 = weakened."""
    side_word: str | None
    """What the latents of its side are called, where they were chosen by their shift."""
    density: float | None
    n_documents: int | None
    n_seeds: int | None
    """Crosscoders of other seeds that it was looked for in."""
    p_reappear: float | None
    max_activation: float | None
    effects: tuple[LatentEffectView, ...]
    patched_sets: tuple[PatchedSet, ...]
    evidence: tuple[EvidenceGroup, ...]
    largest: float
    history: tuple[HistoryEntry, ...]
    chips: tuple[str, ...] = field(default=())
    """Slugs that the form starts with."""

    @property
    def accepted(self) -> JudgeRun | None:
        """The label that `accept` accepts."""
        return next((run for run in self.runs if run.in_force), None)

    @property
    def explanation(self) -> str:
        """What the editor of the explanation starts with."""
        if self.standing is not None and self.standing.explanation:
            return self.standing.explanation
        return "" if self.hidden else self.latent.explanation


def latent_page(
    session: Session,
    table: QueueTable,
    latent: QueuedLatent,
    reviewer: str,
    adjudicate: bool = False,
) -> LatentPage:
    """Read one latent; a blind reviewer gets neither labels nor history."""
    hidden = latent.hidden_from(reviewer)
    stream = ADJUDICATED if adjudicate and not hidden else reviewer
    events = _events(session, table.setting, latent.latent_id)
    voices = _voices(session, events)
    runs = _runs(session, table.setting, latent.latent_id)
    own = [event for event in events if event.reviewer == stream]
    windows = [evidence_view(row) for row in evidence_of(session, latent.latent_id)]
    record = session.get_one(Latent, latent.latent_id)
    standing = next((voice for voice in voices if voice.reviewer == stream), None)
    return LatentPage(
        latent=latent,
        hidden=hidden,
        stream=stream,
        base_revision=own[-1].revision if own else 0,
        standing=standing,
        runs=() if hidden else runs,
        voices=() if hidden else voices,
        scores=() if hidden else _scores(session, runs),
        tests=() if hidden else tuple(latent_tests(session, latent.latent_id)),
        scaling=_scaling(session, latent.latent_id),
        shift=_shift(session, table.setting, latent),
        side_word=_side_word(session, table.setting, latent.side),
        density=record.density,
        n_documents=record.n_documents,
        n_seeds=record.n_seeds,
        p_reappear=record.p_reappear,
        max_activation=record.max_activation,
        effects=read_latent_effects(session, latent.latent_id),
        # The name of its category would tell its label.
        patched_sets=() if hidden else read_patched_sets(session, latent.latent_id),
        evidence=_grouped(windows),
        largest=largest_activation(windows),
        history=() if hidden else tuple(latent_history(session, latent.latent_id)),
        chips=_chips(latent, standing, hidden),
    )


def _chips(latent: QueuedLatent, standing: Voice | None, hidden: bool) -> tuple[str, ...]:
    if standing is not None and standing.categories:
        return standing.categories
    if hidden or latent.category is None:
        return ()
    return (latent.category, *latent.others)


def _events(session: Session, setting: Setting, latent_id: int) -> list[ReviewEvent]:
    return list(
        session.execute(
            select(ReviewEvent)
            .where(
                ReviewEvent.latent_id == latent_id,
                ReviewEvent.taxonomy_version_id == setting.taxonomy_version_id,
            )
            .order_by(ReviewEvent.revision)
        ).scalars()
    )


def _voices(session: Session, events: Sequence[ReviewEvent]) -> tuple[Voice, ...]:
    return tuple(voice_of(session, event) for event in standing_events(events).values())


def voice_of(session: Session, event: ReviewEvent) -> Voice:
    """A decision with its categories."""
    slugs = session.execute(
        select(Category.slug)
        .join(ReviewEventCategory, ReviewEventCategory.category_id == Category.id)
        .where(ReviewEventCategory.review_event_id == event.id)
        .order_by(ReviewEventCategory.rank)
    ).scalars()
    return Voice(
        reviewer=event.reviewer,
        event_id=event.id,
        revision=event.revision,
        action=event.action,
        categories=tuple(slugs),
        explanation=event.explanation_text,
        note=event.note,
        created_at=event.created_at,
        entered_by=event.entered_by,
    )


def _runs(session: Session, setting: Setting, latent_id: int) -> tuple[JudgeRun, ...]:
    """Labels under the active version, with the newest of the active judge first."""
    rows = session.execute(
        select(JudgeLabel, Judge.name, Explanation.text)
        .join(Judge, Judge.id == JudgeLabel.judge_id)
        .outerjoin(Explanation, Explanation.id == JudgeLabel.explanation_id)
        .where(
            JudgeLabel.latent_id == latent_id,
            JudgeLabel.taxonomy_version_id == setting.taxonomy_version_id,
            JudgeLabel.is_control.is_(False),
        )
        .order_by((JudgeLabel.judge_id != setting.judge_id), JudgeLabel.id.desc())
    ).all()
    categories = session.execute(
        select(JudgeLabelCategory, Category.slug)
        .join(Category, Category.id == JudgeLabelCategory.category_id)
        .where(JudgeLabelCategory.judge_label_id.in_([label.id for label, _, _ in rows]))
        .order_by(JudgeLabelCategory.rank)
    ).all()
    usable = [
        label.id
        for label, _, _ in rows
        if label.judge_id == setting.judge_id and label.outcome in ANSWERS
    ]
    return tuple(
        JudgeRun(
            label_id=label.id,
            judge=judge,
            run_id=label.run_id,
            outcome=label.outcome,
            categories=tuple(
                RunCategory(slug, row.confidence, row.quote)
                for row, slug in categories
                if row.judge_label_id == label.id
            ),
            explanation_id=label.explanation_id,
            explanation=explanation,
            in_force=bool(usable) and label.id == usable[0],
            created_at=label.created_at,
        )
        for label, judge, explanation in rows
    )


def _scores(session: Session, runs: Sequence[JudgeRun]) -> tuple[Score, ...]:
    ids = {run.explanation_id for run in runs if run.in_force and run.explanation_id is not None}
    rows = session.execute(
        select(ExplanationScore, Judge.name)
        .join(Judge, Judge.id == ExplanationScore.judge_id)
        .where(ExplanationScore.explanation_id.in_(ids))
        .order_by(ExplanationScore.id.desc())
    )
    return tuple(
        Score(
            judge=judge,
            method=row.method,
            value=Measure(row.balanced_accuracy, row.ci_low, row.ci_high),
            n_asked=row.n_asked,
            n_parsed=row.n_parsed,
        )
        for row, judge in rows
    )


@cache
def _scaling_of_a_latent() -> Select[*tuple[Any, ...]]:
    """The scalings of `latent_id` with the names of their models."""
    target, reference = aliased(SubjectModel), aliased(SubjectModel)
    return (
        select(LatentScaling, target.name, reference.name)
        .join(target, target.id == LatentScaling.target_model_id)
        .join(reference, reference.id == LatentScaling.reference_model_id)
        .where(LatentScaling.latent_id == bindparam("latent_id"))
        .order_by(LatentScaling.id)
    )


def _scaling(session: Session, latent_id: int) -> tuple[Scaling, ...]:
    rows = session.execute(_scaling_of_a_latent(), {"latent_id": latent_id})
    return tuple(
        Scaling(
            target=target_name,
            reference=reference_name,
            delta_norm=row.delta_norm,
            nu_error=Measure(row.nu_error, row.nu_error_low, row.nu_error_high),
            nu_reconstruction=Measure(
                row.nu_reconstruction, row.nu_reconstruction_low, row.nu_reconstruction_high
            ),
        )
        for row, target_name, reference_name in rows
    )


_SHIFT = text(
    "SELECT strength_shift, shift_low, shift_high FROM v_effective_label"
    " WHERE comparison = :comparison AND side = :side AND latent_id = :latent"
)


def _shift(session: Session, setting: Setting, latent: QueuedLatent) -> Measure:
    values = {
        "comparison": setting.comparison,
        "side": latent.side,
        "latent": latent.latent_id,
    }
    row = session.execute(_SHIFT, values).first()
    return Measure(None, None, None) if row is None else Measure(*row)


def _side_word(session: Session, setting: Setting, side: str) -> str | None:
    comparison = session.get_one(Comparison, setting.comparison_id)
    words = shift_words(*sets_of(session, comparison))
    return None if words is None else words[0 if side == "target" else 1]


def _grouped(windows: Sequence[EvidenceView]) -> tuple[EvidenceGroup, ...]:
    groups = []
    for kind, title in EVIDENCE_TITLES.items():
        found = [window for window in windows if window.kind == kind]
        found.sort(key=lambda window: (window.quantile or 0, -max(window.activations, default=0)))
        if found:
            shown = found[: MOST_WINDOWS[kind]]
            groups.append(EvidenceGroup(kind, title, tuple(shown), len(found) - len(shown)))
    return tuple(groups)
