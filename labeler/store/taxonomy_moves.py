"""Moves a comparison from one taxonomy version to the next, with its labels and decisions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import TypeVar

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from labeler.store.effective_rule import Setting, choose, standing_events
from labeler.store.latents import current_setting, ensure_comparison_setting, freeze_version
from labeler.store.outcomes import ANSWERS
from labeler.store.schema import (
    Category,
    Comparison,
    ComparisonSetting,
    Judge,
    JudgeLabel,
    JudgeLabelCategory,
    LatentSetMember,
    ReviewEvent,
    ReviewEventCategory,
    TaxonomyVersion,
)
from labeler.store.statements import chunks
from labeler.store.taxonomies import ADDED_NOTE, Carrying, carrying, map_same_categories

Row = TypeVar("Row")
_NEW_IN_A_COPY = frozenset(
    {
        "id", "taxonomy_version_id", "revision", "action", "based_on_judge_label_id",
        "restores_event_id", "carried_from_id", "act", "created_at",
    }
)  # fmt: skip


def move_comparison(session: Session, comparison_id: int, taxonomy_version_id: int) -> bool:
    """Make a later version active, carrying labels and decisions; False where it is already."""
    setting = current_setting(session, comparison_id)
    if setting is None or setting.taxonomy_version_id == taxonomy_version_id:
        return False
    old_version_id = setting.taxonomy_version_id
    if session.get_one(TaxonomyVersion, taxonomy_version_id).note in (None, ADDED_NOTE):
        map_same_categories(session, old_version_id, taxonomy_version_id)
    latent_ids = members_of(session, comparison_id)
    carry_labels(session, old_version_id, taxonomy_version_id, latent_ids)
    ensure_comparison_setting(session, comparison_id, taxonomy_version_id, setting.judge_id)
    return True


def members_of(session: Session, comparison_id: int) -> list[int]:
    """Latents on either side of a comparison, by id."""
    comparison = session.get_one(Comparison, comparison_id)
    sets = (comparison.target_set_id, comparison.reference_set_id)
    rows = session.execute(
        select(LatentSetMember.latent_id)
        .where(LatentSetMember.latent_set_id.in_(sets))
        .distinct()
        .order_by(LatentSetMember.latent_id)
    ).scalars()
    return list(rows)


def carry_labels(
    session: Session, old_version_id: int, new_version_id: int, latent_ids: Collection[int]
) -> int:
    """Copy the newest labels and the current decisions of latents to a later version.

    The recorded mappings same, renamed, merged and moved are carried. A label stays behind where
    one of its categories was split or dropped, and so does `none` where the later version has new
    leaves. Latents with labels or decisions under the new version keep those. Refresh the effective
    labels afterwards. Returns the number of rows.
    """
    way = carrying(session, old_version_id, new_version_id)
    freeze_version(session, new_version_id)
    carried = 0
    for part in chunks(latent_ids):
        labels = _carry_judge_labels(session, old_version_id, new_version_id, part, way)
        carried += len(labels)
        carried += _carry_decisions(session, old_version_id, new_version_id, part, way, labels)
    return carried


def carry_decisions(
    session: Session, old_version_id: int, new_version_id: int, latent_ids: Collection[int]
) -> int:
    """Copy only the current decisions, for a version that the judge labels again."""
    way = carrying(session, old_version_id, new_version_id)
    freeze_version(session, new_version_id)
    return sum(
        _carry_decisions(session, old_version_id, new_version_id, part, way, {})
        for part in chunks(latent_ids)
    )


def carry_back(
    session: Session,
    old_version_id: int,
    new_version_id: int,
    way: Carrying,
    latent_ids: Collection[int],
    undecided: Collection[int],
) -> None:
    """Copy labels of `latent_ids` and current decisions of `undecided` by the given mapping.

    For a version that restores an earlier one's categories. Refresh the effective labels
    afterwards.
    """
    freeze_version(session, new_version_id)
    wanted = set(undecided)
    for part in chunks(latent_ids):
        labels = _carry_judge_labels(session, old_version_id, new_version_id, part, way)
        free = [latent_id for latent_id in part if latent_id in wanted]
        _carry_decisions(session, old_version_id, new_version_id, free, way, labels)


def _carry_judge_labels(
    session: Session,
    old_version_id: int,
    new_version_id: int,
    latent_ids: Sequence[int],
    way: Carrying,
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
            JudgeLabel.outcome.in_(ANSWERS),
        )
        .order_by(JudgeLabel.id)
    ).scalars()
    newest = {(row.latent_id, row.judge_id): row for row in rows}
    copies: dict[int, int] = {}
    imports = _import_judges(session)
    for key, label in newest.items():
        categories = _categories_of_label(session, label.id)
        if key in taken or any(row.category_id not in way.targets for row in categories):
            continue
        # An import cannot be asked again: its `none` is kept although there are new leaves.
        if label.outcome == "none" and not way.keeps_none and label.judge_id not in imports:
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
        first = _first_of_each(way, [(row.category_id, row) for row in categories])
        session.add_all(
            JudgeLabelCategory(
                judge_label_id=copy.id,
                rank=rank,
                category_id=category_id,
                confidence=row.confidence,
                quote=row.quote,
                quote_found=row.quote_found,
            )
            for rank, (category_id, row) in enumerate(first.items(), start=1)
        )
    session.flush()
    return copies


def _carry_decisions(
    session: Session,
    old_version_id: int,
    new_version_id: int,
    latent_ids: Sequence[int],
    way: Carrying,
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
            _carry_event(session, event, new_version_id, way, labels) for event in standing
        )
    return carried


def _carry_event(
    session: Session,
    event: ReviewEvent,
    new_version_id: int,
    way: Carrying,
    labels: dict[int, int],
) -> bool:
    """Copy one decision; an accepted label that is not carried becomes a decision of its own."""
    rows = session.execute(
        select(ReviewEventCategory)
        .where(ReviewEventCategory.review_event_id == event.id)
        .order_by(ReviewEventCategory.rank)
    ).scalars()
    old_categories = [row.category_id for row in rows]
    base = labels.get(event.based_on_judge_label_id or 0)
    action = event.action
    if action == "accept" and base is None:
        accepted = session.get_one(JudgeLabel, event.based_on_judge_label_id)
        action = "set" if accepted.outcome == "assigned" else accepted.outcome
    if any(category_id not in way.targets for category_id in old_categories):
        return False
    if _decides_none(session, event) and not way.keeps_none and way.is_in_line:
        return False
    copied = {
        column.key: getattr(event, column.key)
        for column in ReviewEvent.__table__.columns
        if column.key not in _NEW_IN_A_COPY
    }
    copy = ReviewEvent(
        **copied,
        taxonomy_version_id=new_version_id,
        revision=1,
        action=action,
        based_on_judge_label_id=base,
        carried_from_id=event.id,
    )
    session.add(copy)
    session.flush()
    first = _first_of_each(way, [(category_id, None) for category_id in old_categories])
    session.add_all(
        ReviewEventCategory(review_event_id=copy.id, rank=rank, category_id=category_id)
        for rank, category_id in enumerate(first, start=1)
    )
    session.flush()
    return True


def _decides_none(session: Session, event: ReviewEvent) -> bool:
    if event.action != "accept":
        return event.action == "none"
    return session.get_one(JudgeLabel, event.based_on_judge_label_id).outcome == "none"


def _first_of_each(way: Carrying, categories: Iterable[tuple[int, Row]]) -> dict[int, Row]:
    """New category id -> the first old category that became it."""
    found: dict[int, Row] = {}
    for category_id, row in categories:
        found.setdefault(way.targets[category_id], row)
    return found


def _import_judges(session: Session) -> set[int]:
    return set(session.execute(select(Judge.id).where(Judge.is_import)).scalars())


def _categories_of_label(session: Session, label_id: int) -> list[JudgeLabelCategory]:
    query = select(JudgeLabelCategory).where(JudgeLabelCategory.judge_label_id == label_id)
    return list(session.execute(query.order_by(JudgeLabelCategory.rank)).scalars())


def latents_under(session: Session, taxonomy_version_id: int) -> dict[str, int]:
    """Slug -> latents whose primary category it is, or was when the version was last active."""
    slugs = {
        row.id: row.slug
        for row in session.execute(
            select(Category.id, Category.slug).where(
                Category.taxonomy_version_id == taxonomy_version_id
            )
        )
    }
    found: dict[str, set[int]] = defaultdict(set)
    for comparison_id, setting in _settings(session, taxonomy_version_id).items():
        for latent_id, choice in choose(
            session, setting, members_of(session, comparison_id)
        ).items():
            for category in choice.categories:
                if category.rank == 1:
                    found[slugs[category.category_id]].add(latent_id)
    return {slug: len(latents) for slug, latents in found.items()}


def on_each_side(session: Session, comparison_id: int, latent_ids: Collection[int]) -> list[int]:
    """How many of the latents are members of the target and of the reference side."""
    comparison = session.get_one(Comparison, comparison_id)
    counts = []
    for set_id in (comparison.target_set_id, comparison.reference_set_id):
        query = select(func.count()).where(LatentSetMember.latent_set_id == set_id)
        parts = (LatentSetMember.latent_id.in_(part) for part in chunks(set(latent_ids)))
        counts.append(sum(session.execute(query.where(part)).scalar_one() for part in parts))
    return counts


def _settings(session: Session, taxonomy_version_id: int) -> dict[int, Setting]:
    """The newest setting of each comparison under a version."""
    newest = (
        select(func.max(ComparisonSetting.id))
        .where(ComparisonSetting.taxonomy_version_id == taxonomy_version_id)
        .group_by(ComparisonSetting.comparison_id)
    )
    rows = session.execute(
        select(ComparisonSetting.comparison_id, ComparisonSetting.judge_id, Judge.is_import)
        .join(Judge, Judge.id == ComparisonSetting.judge_id)
        .where(ComparisonSetting.id.in_(newest))
    )
    return {
        row.comparison_id: Setting(taxonomy_version_id, row.judge_id, row.is_import) for row in rows
    }
