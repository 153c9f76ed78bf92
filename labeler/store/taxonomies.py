"""Writing and reading taxonomy versions."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from labeler.store.schema import Category, TaxonomyVersion
from taxonomy.tree import Category as TreeCategory
from taxonomy.tree import Taxonomy

ADDED_NOTE = "categories added by an import"
"""Note of a version that only adds categories to its parent."""
ACCEPTED_NOTE = "accepted: "
"""How the note of a version begins that a person accepted in the place of its parent."""
INDUCED_NOTE = "accepted as induced: "
"""How the note of a version begins that was made from explanations and follows no other."""


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
    return {row.slug: row.id for row in session.execute(query)}


def current_version(session: Session, taxonomy: Taxonomy) -> TaxonomyVersion:
    """The newest version that was accepted in the place of this taxonomy, or its own."""
    return newest_in_line(session, ensure_taxonomy_version(session, taxonomy))


def find_version(session: Session, taxonomy: Taxonomy) -> TaxonomyVersion | None:
    """The stored version with this content."""
    query = select(TaxonomyVersion).where(TaxonomyVersion.sha256 == taxonomy.sha256())
    return session.execute(query).scalar_one_or_none()


def newest_in_line(session: Session, version: TaxonomyVersion) -> TaxonomyVersion:
    """The newest version that follows this one step by step, by an import or a decision."""
    while True:
        newer = session.execute(
            select(TaxonomyVersion)
            .where(
                TaxonomyVersion.parent_version_id == version.id,
                (TaxonomyVersion.note == ADDED_NOTE)
                | TaxonomyVersion.note.startswith(ACCEPTED_NOTE),
            )
            .order_by(TaxonomyVersion.id.desc())
            .limit(1)
        ).scalar_one_or_none()
        if newer is None:
            return version
        version = newer


def newest_induced(session: Session) -> TaxonomyVersion | None:
    """The version in force of the newest taxonomy that was made from explanations."""
    first = session.execute(
        select(TaxonomyVersion)
        .where(TaxonomyVersion.note.startswith(INDUCED_NOTE))
        .order_by(TaxonomyVersion.id.desc())
        .limit(1)
    ).scalar_one_or_none()
    return None if first is None else newest_in_line(session, first)


def versions(session: Session) -> list[TaxonomyVersion]:
    """All stored versions, oldest first."""
    return list(session.execute(select(TaxonomyVersion).order_by(TaxonomyVersion.id)).scalars())


def add_categories(
    session: Session, version: TaxonomyVersion, slugs: Sequence[str]
) -> TaxonomyVersion:
    """A new version that has these categories too; `current_version` finds it from then on."""
    added = load_version(session, version.id).with_added(slugs)
    newer = ensure_taxonomy_version(session, added, parent_version_id=version.id)
    if newer.note is None and not newer.frozen:
        newer.note = ADDED_NOTE
        session.flush()
    return newer


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
