"""Taxonomy versions in the database, and the mappings of categories between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sqlalchemy import insert, select
from sqlalchemy.orm import Session, aliased

from labeler.store.schema import Category, CategoryMapping, TaxonomyVersion
from taxonomy.edits import CARRIED, Edit
from taxonomy.tree import Category as TreeCategory
from taxonomy.tree import Taxonomy

ADDED_NOTE = "categories added by an import"
"""Note of a version that only adds categories to its parent."""
ACCEPTED_NOTE = "accepted: "
"""Start of the note of a version that a person accepted to replace its parent."""
INDUCED_NOTE = "accepted as induced: "
"""Start of the note of a version that was induced from explanations and has no parent."""


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
                behaviour=row.behaviour or "",
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
    """The newest version that follows this taxonomy, or its own version."""
    return newest_in_line(session, ensure_taxonomy_version(session, taxonomy))


def find_version(session: Session, taxonomy: Taxonomy) -> TaxonomyVersion | None:
    """The stored version with this content."""
    query = select(TaxonomyVersion).where(TaxonomyVersion.sha256 == taxonomy.sha256())
    return session.execute(query).scalar_one_or_none()


def newest_in_line(session: Session, version: TaxonomyVersion) -> TaxonomyVersion:
    """The newest version that follows this one through imports or decisions."""
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
    """The active version of the newest taxonomy that was made from explanations."""
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
    """A new version with these further categories, which `current_version` returns from then on."""
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
        behaviour=category.behaviour or None,
    )


@dataclass(frozen=True)
class Carrying:
    """Mapping of labels from one version to a later one."""

    targets: dict[int, int]
    """Old category id -> new category id, for categories whose labels stay."""
    keeps_none: bool
    """False where the later version has new leaves."""
    is_in_line: bool
    """Whether the later version follows the older one by recorded steps."""


def record_mappings(session: Session, old_version_id: int, new_version_id: int, edit: Edit) -> None:
    """Write the mapping of every category of the old version, once."""
    old, new = category_ids(session, old_version_id), category_ids(session, new_version_id)
    known = session.execute(
        select(CategoryMapping.id)
        .join(Category, Category.id == CategoryMapping.to_category_id)
        .where(
            CategoryMapping.from_category_id.in_(old.values()),
            Category.taxonomy_version_id == new_version_id,
        )
        .limit(1)
    ).first()
    if known is not None:
        return
    rows = [
        {"from_category_id": old[change.slug], "to_category_id": target, "kind": change.kind}
        for change in edit.changes
        for target in _targets(change.to, new)
    ]
    if rows:
        session.execute(insert(CategoryMapping), rows)


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


def carrying(session: Session, old_version_id: int, new_version_id: int) -> Carrying:
    """Mapping of labels between versions, step by step where one follows the other.

    Versions that do not follow each other share the categories of equal slug.
    """
    line = line_between(session, old_version_id, new_version_id)
    if line is None:
        targets = _equal_slugs(session, old_version_id, new_version_id)
        return Carrying(targets, keeps_none=False, is_in_line=False)
    targets = {key: key for key in category_ids(session, old_version_id).values()}
    keeps_none = True
    for before, after in pairwise(line):
        added = after.note == ADDED_NOTE
        step = _equal_slugs(session, before.id, after.id) if added else _step(session, after.id)
        keeps_none &= added or not _adds_leaves(session, after.id, step)
        targets = {start: step[now] for start, now in targets.items() if now in step}
    return Carrying(targets, keeps_none, is_in_line=True)


def same_slugs(session: Session, old_version_id: int, new_version_id: int) -> Carrying:
    """Mapping of labels to a version with the same categories, whatever lies in between."""
    targets = _equal_slugs(session, old_version_id, new_version_id)
    return Carrying(targets, keeps_none=True, is_in_line=True)


def line_between(
    session: Session, old_version_id: int, new_version_id: int
) -> list[TaxonomyVersion] | None:
    """The versions from the old to the new one, both included; None where they are not in line."""
    found = [session.get_one(TaxonomyVersion, new_version_id)]
    while found[-1].id != old_version_id:
        if found[-1].parent_version_id is None:
            return None
        found.append(session.get_one(TaxonomyVersion, found[-1].parent_version_id))
    return found[::-1]


def _equal_slugs(session: Session, old_version_id: int, new_version_id: int) -> dict[int, int]:
    old, new = category_ids(session, old_version_id), category_ids(session, new_version_id)
    return {key: new[slug] for slug, key in old.items() if slug in new}


def _step(session: Session, new_version_id: int) -> dict[int, int]:
    """Recorded mapping of one step, for categories whose labels stay."""
    rows = session.execute(
        select(CategoryMapping.from_category_id, CategoryMapping.to_category_id)
        .join(Category, Category.id == CategoryMapping.to_category_id)
        .where(
            Category.taxonomy_version_id == new_version_id,
            CategoryMapping.kind.in_(sorted(CARRIED)),
        )
    )
    return {row.from_category_id: row.to_category_id for row in rows}


def _adds_leaves(session: Session, version_id: int, step: dict[int, int]) -> bool:
    ids = category_ids(session, version_id)
    leaves = {ids[category.slug] for category in load_version(session, version_id).leaves()}
    return bool(leaves - set(step.values()))


def _targets(slugs: Sequence[str], ids: Mapping[str, int]) -> list[int | None]:
    """The new categories of an old one; [None] where it has none."""
    return [ids[slug] for slug in slugs] or [None]


_WORDS = {
    "renamed": "was renamed to",
    "merged": "was merged into",
    "split": "was split into",
}


def missing_category_hint(session: Session, taxonomy_version_id: int, slug: str) -> str:
    """Hint for an unknown slug: what it became, else the nearest slug."""
    told = _fate(session, taxonomy_version_id, slug)
    if told is not None:
        return told
    return load_version(session, taxonomy_version_id).nearest_hint(slug)


def renames_since(session: Session, taxonomy_version_id: int) -> dict[str, dict[str, str]]:
    """Hash of each earlier version -> its renamed slugs, old to new."""
    found: dict[str, dict[str, str]] = {}
    now: dict[str, str] = {}
    for before, after in reversed(list(pairwise(_line(session, taxonomy_version_id)))):
        step = {
            old: new
            for old, kind, new in _steps(session, before.id, after.id)
            if kind == "renamed" and new is not None
        }
        now = now | {old: now.get(new, new) for old, new in step.items()}
        found[before.sha256] = now
    return found


def _fate(session: Session, taxonomy_version_id: int, slug: str) -> str | None:
    said: list[str] = []
    names = [slug]
    for before, after in pairwise(_line(session, taxonomy_version_id)):
        steps = _steps(session, before.id, after.id)
        for name in names:
            kinds = {kind for old, kind, _ in steps if old == name} - {"same", "moved"}
            new = [new for old, kind, new in steps if old == name and kind in kinds]
            kind = next(iter(kinds), None)
            if kind is None:
                continue
            targets = [target for target in new if target is not None]
            where = f"in version {after.version}"
            if not targets:
                return ", ".join([*said, f"{name!r} was dropped {where}"])
            listed = ", ".join(repr(target) for target in targets)
            said.append(f"{name!r} {_WORDS[kind]} {listed} {where}")
            names = targets
            break
    return ", ".join(said) or None


def _line(session: Session, taxonomy_version_id: int) -> list[TaxonomyVersion]:
    """The version and all it follows, oldest first."""
    found = [session.get_one(TaxonomyVersion, taxonomy_version_id)]
    while found[-1].parent_version_id is not None:
        found.append(session.get_one(TaxonomyVersion, found[-1].parent_version_id))
    return found[::-1]


def _steps(session: Session, before_id: int, after_id: int) -> list[tuple[str, str, str | None]]:
    """Old slug, kind and new slug of each recorded change of one step."""
    old, new = aliased(Category), aliased(Category)
    rows = session.execute(
        select(old.slug.label("old"), CategoryMapping.kind, new.slug.label("new"))
        .join(old, old.id == CategoryMapping.from_category_id)
        .outerjoin(new, new.id == CategoryMapping.to_category_id)
        .where(
            old.taxonomy_version_id == before_id,
            (new.taxonomy_version_id == after_id) | new.id.is_(None),
        )
        .order_by(CategoryMapping.id)
    )
    return [(row.old, row.kind, row.new) for row in rows]
