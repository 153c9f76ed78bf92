"""Writing taxonomy versions, and carrying labels from one version to the next."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from labeler.store.effective_rule import standing_events
from labeler.store.helpers import chunks
from labeler.store.latent_records import freeze_version
from labeler.store.schema import (
    Category,
    CategoryMapping,
    JudgeLabel,
    JudgeLabelCategory,
    ReviewEvent,
    ReviewEventCategory,
    TaxonomyVersion,
)
from taxonomy.tree import Category as TreeCategory
from taxonomy.tree import Taxonomy


def ensure_taxonomy_version(
    session: Session, taxonomy: Taxonomy, parent_version_id: int | None = None
) -> TaxonomyVersion:
    """The version with this content; a new row is a draft until a label or a setting uses it."""
    sha256 = taxonomy.sha256()
    found = session.execute(
        select(TaxonomyVersion).where(TaxonomyVersion.sha256 == sha256)
    ).scalar_one_or_none()
    if found is not None:
        return found
    version = TaxonomyVersion(
        name=taxonomy.name,
        version=taxonomy.version,
        sha256=sha256,
        parent_version_id=parent_version_id,
    )
    session.add(version)
    session.flush()
    by_slug: dict[str, Category] = {}
    positions = {slug: position for position, slug in enumerate(taxonomy.slugs)}
    for category in sorted(taxonomy.categories, key=lambda item: item.level):
        parent = by_slug[category.parent] if category.parent is not None else None
        row = _category_row(category, version.id, parent, positions[category.slug])
        session.add(row)
        session.flush()
        by_slug[category.slug] = row
    return version


def load_version(session: Session, taxonomy_version_id: int) -> Taxonomy:
    """The taxonomy that a version holds."""
    version = session.get_one(TaxonomyVersion, taxonomy_version_id)
    rows = session.execute(
        select(Category)
        .where(Category.taxonomy_version_id == taxonomy_version_id)
        .order_by(Category.position)
    ).scalars()
    categories = list(rows)
    slugs = {row.id: row.slug for row in categories}
    return Taxonomy(
        name=version.name,
        version=version.version,
        categories=tuple(
            TreeCategory(
                slug=row.slug,
                parent=None if row.parent_id is None else slugs[row.parent_id],
                level=1 if row.level == 1 else 2,
                name=row.name,
                definition=row.definition,
                include_when=row.include_when,
                exclude_when=row.exclude_when,
                prototypes=tuple(row.prototypes),
            )
            for row in categories
        ),
    )


def category_ids(session: Session, taxonomy_version_id: int) -> dict[str, int]:
    """Slug -> category id of one version."""
    query = select(Category.slug, Category.id).where(
        Category.taxonomy_version_id == taxonomy_version_id
    )
    return dict(session.execute(query).tuples().all())


def map_same_categories(session: Session, old_version_id: int, new_version_id: int) -> int:
    """Record that categories of equal slug are the same ones; returns how many were new."""
    old, new = category_ids(session, old_version_id), category_ids(session, new_version_id)
    known = set(
        session.execute(
            select(CategoryMapping.from_category_id, CategoryMapping.to_category_id).where(
                CategoryMapping.from_category_id.in_(old.values())
            )
        ).tuples()
    )
    pairs = [(old[slug], new[slug]) for slug in old if slug in new]
    fresh = [pair for pair in pairs if pair not in known]
    if fresh:
        session.execute(
            insert(CategoryMapping),
            [{"from_category_id": a, "to_category_id": b, "kind": "same"} for a, b in fresh],
        )
    return len(fresh)


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
    taken = set(
        session.execute(
            select(JudgeLabel.latent_id, JudgeLabel.judge_id).where(
                JudgeLabel.latent_id.in_(latent_ids),
                JudgeLabel.taxonomy_version_id == new_version_id,
            )
        ).tuples()
    )
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


def _category_row(
    category: TreeCategory, version_id: int, parent: Category | None, position: int
) -> Category:
    return Category(
        taxonomy_version_id=version_id,
        slug=category.slug,
        parent_id=None if parent is None else parent.id,
        level=category.level,
        name=category.name,
        definition=category.definition,
        include_when=category.include_when,
        exclude_when=category.exclude_when,
        prototypes=list(category.prototypes),
        position=position,
    )
