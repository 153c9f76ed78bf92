"""Moves a comparison from one taxonomy version to the next, with its labels and decisions."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from labeler.store.effective_rule import standing_events
from labeler.store.helpers import chunks
from labeler.store.latent_records import (
    current_setting,
    ensure_comparison_setting,
    freeze_version,
)
from labeler.store.schema import (
    CategoryMapping,
    Comparison,
    JudgeLabel,
    JudgeLabelCategory,
    LatentSetMember,
    ReviewEvent,
    ReviewEventCategory,
)
from labeler.store.taxonomies import category_ids


def map_same_categories(session: Session, old_version_id: int, new_version_id: int) -> int:
    """Record that categories of equal slug are the same ones; returns how many were new."""
    old, new = category_ids(session, old_version_id), category_ids(session, new_version_id)
    stored = session.execute(
        select(CategoryMapping).where(CategoryMapping.from_category_id.in_(old.values()))
    ).scalars()
    known = {(row.from_category_id, row.to_category_id) for row in stored}
    pairs = [(old[slug], new[slug]) for slug in old if slug in new]
    fresh = [pair for pair in pairs if pair not in known]
    if fresh:
        session.execute(
            insert(CategoryMapping),
            [{"from_category_id": a, "to_category_id": b, "kind": "same"} for a, b in fresh],
        )
    return len(fresh)


def move_comparison(session: Session, comparison_id: int, taxonomy_version_id: int) -> bool:
    """Put a later version in force, carrying labels and decisions; False where it is already."""
    setting = current_setting(session, comparison_id)
    if setting is None or setting.taxonomy_version_id == taxonomy_version_id:
        return False
    old_version_id = setting.taxonomy_version_id
    map_same_categories(session, old_version_id, taxonomy_version_id)
    comparison = session.get_one(Comparison, comparison_id)
    sets = (comparison.target_set_id, comparison.reference_set_id)
    latent_ids = session.execute(
        select(LatentSetMember.latent_id)
        .where(LatentSetMember.latent_set_id.in_(sets))
        .distinct()
        .order_by(LatentSetMember.latent_id)
    ).scalars()
    carry_labels(session, old_version_id, taxonomy_version_id, latent_ids.all())
    ensure_comparison_setting(session, comparison_id, taxonomy_version_id, setting.judge_id)
    return True


def carry_labels(
    session: Session, old_version_id: int, new_version_id: int, latent_ids: Collection[int]
) -> int:
    """Copy the newest labels and the standing decisions of latents to a later version.

    Only what the new version can hold is carried: a label one of whose categories has no
    category of equal slug stays behind. Latents that the new version already has labels or
    decisions for keep those. Refresh the effective labels afterwards. Returns how many rows.
    """
    old, new = category_ids(session, old_version_id), category_ids(session, new_version_id)
    targets = {key: new[slug] for slug, key in old.items() if slug in new}
    freeze_version(session, new_version_id)
    carried = 0
    for part in chunks(latent_ids):
        labels = _carry_judge_labels(session, old_version_id, new_version_id, part, targets)
        carried += len(labels)
        carried += _carry_decisions(session, old_version_id, new_version_id, part, targets, labels)
    return carried


def _carry_judge_labels(
    session: Session,
    old_version_id: int,
    new_version_id: int,
    latent_ids: Sequence[int],
    targets: dict[int, int],
) -> dict[int, int]:
    """Returns old label id -> new label id."""
    present = session.execute(
        select(JudgeLabel.latent_id, JudgeLabel.judge_id).where(
            JudgeLabel.latent_id.in_(latent_ids),
            JudgeLabel.taxonomy_version_id == new_version_id,
        )
    )
    taken = {(row.latent_id, row.judge_id) for row in present}
    rows = session.execute(
        select(JudgeLabel)
        .where(
            JudgeLabel.latent_id.in_(latent_ids),
            JudgeLabel.taxonomy_version_id == old_version_id,
            JudgeLabel.is_control.is_(False),
            JudgeLabel.outcome != "error",
        )
        .order_by(JudgeLabel.id)
    ).scalars()
    newest = {(row.latent_id, row.judge_id): row for row in rows}
    copies: dict[int, int] = {}
    for key, label in newest.items():
        categories = _categories_of_label(session, label.id)
        if key in taken or any(row.category_id not in targets for row in categories):
            continue
        copy = JudgeLabel(
            run_id=label.run_id,
            latent_id=label.latent_id,
            judge_id=label.judge_id,
            taxonomy_version_id=new_version_id,
            explanation_id=label.explanation_id,
            judge_call_id=label.judge_call_id,
            carried_from_id=label.id,
            outcome=label.outcome,
            confidence=label.confidence,
        )
        session.add(copy)
        session.flush()
        copies[label.id] = copy.id
        session.add_all(
            JudgeLabelCategory(
                judge_label_id=copy.id,
                rank=row.rank,
                category_id=targets[row.category_id],
                confidence=row.confidence,
                quote=row.quote,
            )
            for row in categories
        )
    session.flush()
    return copies


def _carry_decisions(
    session: Session,
    old_version_id: int,
    new_version_id: int,
    latent_ids: Sequence[int],
    targets: dict[int, int],
    labels: dict[int, int],
) -> int:
    taken = set(
        session.execute(
            select(ReviewEvent.latent_id).where(
                ReviewEvent.latent_id.in_(latent_ids),
                ReviewEvent.taxonomy_version_id == new_version_id,
            )
        ).scalars()
    )
    carried = 0
    for latent_id in latent_ids:
        if latent_id in taken:
            continue
        events = session.execute(
            select(ReviewEvent)
            .where(
                ReviewEvent.latent_id == latent_id,
                ReviewEvent.taxonomy_version_id == old_version_id,
            )
            .order_by(ReviewEvent.revision)
        ).scalars()
        standing = sorted(standing_events(events).values(), key=lambda event: event.id)
        carried += sum(
            _carry_event(session, event, new_version_id, targets, labels) for event in standing
        )
    return carried


def _carry_event(
    session: Session,
    event: ReviewEvent,
    new_version_id: int,
    targets: dict[int, int],
    labels: dict[int, int],
) -> bool:
    categories = session.execute(
        select(ReviewEventCategory).where(ReviewEventCategory.review_event_id == event.id)
    ).scalars()
    pairs = [(row.rank, row.category_id) for row in categories]
    base = labels.get(event.based_on_judge_label_id or 0)
    lost = any(category_id not in targets for _, category_id in pairs)
    if lost or (event.action == "accept" and base is None):
        return False
    copy = ReviewEvent(
        latent_id=event.latent_id,
        taxonomy_version_id=new_version_id,
        reviewer=event.reviewer,
        revision=1,
        action=event.action,
        explanation_text=event.explanation_text,
        based_on_judge_label_id=base,
        carried_from_id=event.id,
        reason=event.reason,
        note=event.note,
        was_blind=event.was_blind,
        selection=event.selection,
        inclusion_prob=event.inclusion_prob,
        elapsed_ms=event.elapsed_ms,
    )
    session.add(copy)
    session.flush()
    session.add_all(
        ReviewEventCategory(review_event_id=copy.id, rank=rank, category_id=targets[category_id])
        for rank, category_id in pairs
    )
    session.flush()
    return True


def _categories_of_label(session: Session, label_id: int) -> list[JudgeLabelCategory]:
    query = select(JudgeLabelCategory).where(JudgeLabelCategory.judge_label_id == label_id)
    return list(session.execute(query.order_by(JudgeLabelCategory.rank)).scalars())
