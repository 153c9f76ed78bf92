"""History of a latent: every judge label and decision, oldest first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from labeler.store.schema import (
    Category,
    Explanation,
    Judge,
    JudgeLabel,
    JudgeLabelCategory,
    ReviewEvent,
    ReviewEventCategory,
    TaxonomyVersion,
)


@dataclass(frozen=True)
class HistoryEntry:
    """One judge label or decision."""

    at: datetime
    kind: str
    """`judge label` or `decision`."""
    key: int
    """Id of the judge label or of the review event."""
    who: str
    """Name of the judge or of the reviewer."""
    what: str
    """The label's outcome or the decision's action."""
    categories: tuple[str, ...]
    """Slugs, the primary one first."""
    explanation: str | None
    confidence: float | None
    taxonomy_version: str
    revision: int | None = None
    """Revision in the reviewer's stream; decisions only."""
    restores: int | None = None
    """The event that an undo restores."""
    run_id: int | None = None
    """The judge's confidence; labels only."""
    note: str | None = None
    entered_by: str | None = None
    """Who decided, where the stream is shared."""
    is_control: bool = False
    carried_from: int | None = None
    """The label or event of an earlier taxonomy version from which this one was carried."""


def latent_history(session: Session, latent_id: int) -> list[HistoryEntry]:
    """All labels of all judges and all decisions of all reviewers, oldest first."""
    entries = [*_labels(session, latent_id), *_decisions(session, latent_id)]
    return sorted(entries, key=lambda entry: (entry.at, entry.kind, entry.key))


def _labels(session: Session, latent_id: int) -> list[HistoryEntry]:
    rows = session.execute(
        select(JudgeLabel, Judge.name, Explanation.text, TaxonomyVersion)
        .join(Judge, Judge.id == JudgeLabel.judge_id)
        .join(TaxonomyVersion, TaxonomyVersion.id == JudgeLabel.taxonomy_version_id)
        .outerjoin(Explanation, Explanation.id == JudgeLabel.explanation_id)
        .where(JudgeLabel.latent_id == latent_id)
    )
    return [
        HistoryEntry(
            at=label.created_at,
            kind="judge label",
            key=label.id,
            who=judge,
            what=label.outcome,
            categories=_label_slugs(session, label.id),
            explanation=explanation,
            confidence=label.confidence,
            taxonomy_version=f"{version.name} {version.version}",
            run_id=label.run_id,
            is_control=label.is_control,
            carried_from=label.carried_from_id,
        )
        for label, judge, explanation, version in rows
    ]


def _decisions(session: Session, latent_id: int) -> list[HistoryEntry]:
    rows = session.execute(
        select(ReviewEvent, TaxonomyVersion)
        .join(TaxonomyVersion, TaxonomyVersion.id == ReviewEvent.taxonomy_version_id)
        .where(ReviewEvent.latent_id == latent_id)
    )
    return [
        HistoryEntry(
            at=event.created_at,
            kind="decision",
            key=event.id,
            who=event.reviewer,
            what=event.action,
            categories=_event_slugs(session, event.id),
            explanation=event.explanation_text,
            confidence=None,
            taxonomy_version=f"{version.name} {version.version}",
            revision=event.revision,
            restores=event.restores_event_id,
            note=event.note,
            entered_by=event.entered_by,
            carried_from=event.carried_from_id,
        )
        for event, version in rows
    ]


def _label_slugs(session: Session, label_id: int) -> tuple[str, ...]:
    query = (
        select(Category.slug)
        .join(JudgeLabelCategory, JudgeLabelCategory.category_id == Category.id)
        .where(JudgeLabelCategory.judge_label_id == label_id)
        .order_by(JudgeLabelCategory.rank)
    )
    return tuple(session.execute(query).scalars())


def _event_slugs(session: Session, event_id: int) -> tuple[str, ...]:
    query = (
        select(Category.slug)
        .join(ReviewEventCategory, ReviewEventCategory.category_id == Category.id)
        .where(ReviewEventCategory.review_event_id == event_id)
        .order_by(ReviewEventCategory.rank)
    )
    return tuple(session.execute(query).scalars())
