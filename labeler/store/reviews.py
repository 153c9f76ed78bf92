"""Writing reviewers' decisions: append-only, with optimistic revisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from labeler.errors import UsageError, WorkError
from labeler.store.effective import refresh_effective
from labeler.store.latent_records import freeze_version
from labeler.store.schema import (
    JudgeLabel,
    JudgeLabelCategory,
    ReviewEvent,
    ReviewEventCategory,
)
from labeler.store.taxonomies import category_ids


@dataclass(frozen=True)
class Decision:
    """What a reviewer decided about one latent, having seen `base_revision` of their stream."""

    latent_id: int
    taxonomy_version_id: int
    reviewer: str
    base_revision: int
    """Newest revision of this reviewer's stream when the page or file was made; 0 = none."""
    action: str
    """accept, set, none, uninterpretable, skip or undo."""
    categories: tuple[str, ...] = ()
    """`set`: slugs, the primary one first."""
    explanation_text: str | None = None
    based_on_judge_label_id: int | None = None
    reason: str | None = None
    note: str | None = None
    was_blind: bool = False
    selection: str = "manual"
    inclusion_prob: float | None = None
    elapsed_ms: int | None = None


class RevisionConflictError(WorkError):
    """The reviewer's stream has moved on since the decision was based on it."""

    def __init__(self, decision: Decision, current_revision: int) -> None:
        self.decision = decision
        self.current_revision = current_revision
        super().__init__(
            f"latent {decision.latent_id}: {decision.reviewer} is at revision"
            f" {current_revision}, the decision was based on {decision.base_revision}"
        )


def stream_of(
    session: Session, latent_id: int, taxonomy_version_id: int, reviewer: str
) -> list[ReviewEvent]:
    """A reviewer's events on one latent, oldest first."""
    query = (
        select(ReviewEvent)
        .where(
            ReviewEvent.latent_id == latent_id,
            ReviewEvent.taxonomy_version_id == taxonomy_version_id,
            ReviewEvent.reviewer == reviewer,
        )
        .order_by(ReviewEvent.revision)
    )
    return list(session.execute(query).scalars())


def stream_revision(
    session: Session, latent_id: int, taxonomy_version_id: int, reviewer: str
) -> int:
    """The newest revision of a reviewer's stream; 0 for an empty one."""
    query = select(func.max(ReviewEvent.revision)).where(
        ReviewEvent.latent_id == latent_id,
        ReviewEvent.taxonomy_version_id == taxonomy_version_id,
        ReviewEvent.reviewer == reviewer,
    )
    return session.execute(query).scalar_one() or 0


def record_decision(session: Session, decision: Decision) -> ReviewEvent:
    """Append a decision as revision `base_revision` + 1 and refresh the effective labels.

    RevisionConflictError when the stream has moved on; UsageError for a decision that says
    nothing valid. Nothing is written then.
    """
    if not decision.reviewer.strip():
        raise UsageError("reviewer: missing; give a name")
    stream = stream_of(session, decision.latent_id, decision.taxonomy_version_id, decision.reviewer)
    newest = stream[-1].revision if stream else 0
    if newest != decision.base_revision:
        raise RevisionConflictError(decision, newest)
    ids = _category_ids(session, decision)
    event = ReviewEvent(
        latent_id=decision.latent_id,
        taxonomy_version_id=decision.taxonomy_version_id,
        reviewer=decision.reviewer,
        revision=newest + 1,
        action=decision.action,
        explanation_text=decision.explanation_text,
        based_on_judge_label_id=decision.based_on_judge_label_id,
        restores_event_id=_restored(stream) if decision.action == "undo" else None,
        reason=decision.reason,
        note=decision.note,
        was_blind=decision.was_blind,
        selection=decision.selection,
        inclusion_prob=decision.inclusion_prob,
        elapsed_ms=decision.elapsed_ms,
    )
    freeze_version(session, decision.taxonomy_version_id)
    try:
        with session.begin_nested():
            session.add(event)
    except IntegrityError as error:
        now = stream_revision(
            session, decision.latent_id, decision.taxonomy_version_id, decision.reviewer
        )
        if now == newest:
            raise
        raise RevisionConflictError(decision, now) from error
    session.add_all(
        ReviewEventCategory(review_event_id=event.id, rank=rank, category_id=category_id)
        for rank, category_id in enumerate(ids, start=1)
    )
    session.flush()
    refresh_effective(session, latent_ids=[decision.latent_id])
    return event


def _category_ids(session: Session, decision: Decision) -> list[int]:
    if (decision.action == "set") != bool(decision.categories):
        raise UsageError(
            f"action {decision.action!r} with {len(decision.categories)} categories: only and"
            " always 'set' names categories"
        )
    if decision.action == "accept":
        return _accepted(session, decision)
    known = category_ids(session, decision.taxonomy_version_id)
    for slug in decision.categories:
        if slug not in known:
            raise UsageError(f"category {slug!r}: not in the taxonomy version in force")
    if len(set(decision.categories)) < len(decision.categories):
        raise UsageError(f"categories {', '.join(decision.categories)}: one is named twice")
    return [known[slug] for slug in decision.categories]


def _accepted(session: Session, decision: Decision) -> list[int]:
    """Category ids of the label that is accepted, in the order of their rank."""
    label = (
        session.get(JudgeLabel, decision.based_on_judge_label_id)
        if decision.based_on_judge_label_id is not None
        else None
    )
    if (
        label is None
        or label.outcome == "error"
        or label.is_control
        or (label.latent_id, label.taxonomy_version_id)
        != (decision.latent_id, decision.taxonomy_version_id)
    ):
        raise UsageError(
            "action 'accept': based_on_judge_label_id must name a usable label of this latent"
            " under this taxonomy version"
        )
    query = (
        select(JudgeLabelCategory.category_id)
        .where(JudgeLabelCategory.judge_label_id == label.id)
        .order_by(JudgeLabelCategory.rank)
    )
    return list(session.execute(query).scalars())


def _restored(stream: Sequence[ReviewEvent]) -> int | None:
    """Which decision stands again when the one that stands now is undone."""
    acts = [event for event in stream if event.action != "skip"]
    standing: list[int | None] = [None]
    for event in acts:
        standing.append(event.restores_event_id if event.action == "undo" else event.id)
    now = standing[-1]
    if now is None:
        raise UsageError("action 'undo': this reviewer has no decision on the latent to undo")
    position = next(index for index, event in enumerate(acts) if event.id == now)
    return standing[position]
