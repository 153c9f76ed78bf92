"""Finds the taxonomy version of a study; shows versions and the changes between them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from labeler.errors import UsageError
from labeler.store.query.result import QueryResult
from labeler.store.schema import Category, CategoryMapping, EffectiveLabelCategory, TaxonomyVersion
from labeler.store.taxonomies import (
    current_version,
    find_version,
    line_between,
    load_version,
    newest_in_line,
    newest_induced,
    versions,
)
from labeler.store.taxonomy_moves import latents_under
from labeler.study.study_file import StudyFile, load_proposal, study_taxonomy
from taxonomy.edits import CategoryEdit, Edit, changes_between, followed_by, reworded
from taxonomy.proposal import Proposal, follow, proposal_text, taxonomy_text
from taxonomy.tree import Taxonomy

UNREAD = " (nobody read it)"
"""End of the note of a version that was accepted by `taxonomy.accept = "auto"`."""
_UNREAD_RUN = re.compile(rf"run (\d+){re.escape(UNREAD)}$")
DIFF_COLUMNS = ("kind", "category", "to", "latents_before", "latents_after")
"""`latents_before` and `latents_after` count primary categories under the old and the new version;
`latents_after` is NULL for a file, which has no labels yet."""


def study_version(session: Session, study: StudyFile) -> TaxonomyVersion | None:
    """The version to map to, stored if new; None where it is not induced yet."""
    if study.config.taxonomy.mode == "induce":
        return newest_induced(session)
    return current_version(session, study_taxonomy(study))


def stored_version(session: Session, study: StudyFile) -> TaxonomyVersion | None:
    """The version to map to, without writing; None where none is stored."""
    if study.config.taxonomy.mode == "induce":
        return newest_induced(session)
    found = find_version(session, study_taxonomy(study))
    return None if found is None else newest_in_line(session, found)


def tree_of(session: Session, study: StudyFile) -> Taxonomy:
    """The study's categories: the stored version, else its file or the seed taxonomy."""
    version = stored_version(session, study)
    return study_taxonomy(study) if version is None else load_version(session, version.id)


def taxonomy_input(session: Session, study: StudyFile) -> dict[str, str | None]:
    """The taxonomy's part of the stage key: mode, file, and the version that a person accepted.

    A version that was accepted automatically is a product of the stage, not an input.
    """
    version = stored_version(session, study)
    while version is not None and (version.note or "").endswith(UNREAD):
        parent = version.parent_version_id
        version = None if parent is None else session.get_one(TaxonomyVersion, parent)
    own = study_taxonomy(study).sha256()
    accepted = None if version is None or version.sha256 == own else version.sha256
    return {"mode": study.config.taxonomy.mode, "file": own, "accepted": accepted}


def unread_run(version: TaxonomyVersion | None) -> int | None:
    """The run that accepted a version unread; None where a person decided."""
    found = _UNREAD_RUN.search("" if version is None else version.note or "")
    return None if found is None else int(found.group(1))


def taxonomy_rows(session: Session, study: StudyFile, name: str | None = None) -> QueryResult:
    """Categories, one row each, with the latents that have them as active primary category.

    With `name`, the categories of an earlier version with its latents.
    """
    version = stored_version(session, study)
    tree = version_tree(session, study, name)
    counts = _latents(session, version)
    if name is not None and version is not None:
        counts = dict(latents_under(session, named_version(session, version, name, "show").id))
    rows = [
        (each.slug, each.parent, each.level, each.name, each.definition, counts.get(each.slug, 0))
        for each in tree.categories
    ]
    columns = ("category", "parent", "level", "name", "definition", "latents")
    return QueryResult(columns, tuple(rows), truncated=False)


def version_tree(session: Session, study: StudyFile, name: str | None) -> Taxonomy:
    """The categories of a version; without a name those of the active one."""
    if name is None:
        return tree_of(session, study)
    current = stored_version(session, study)
    if current is None:
        raise UsageError("taxonomy show: the database has no version yet; categorize first")
    return load_version(session, named_version(session, current, name, "show").id)


def taxonomy_yaml(session: Session, study: StudyFile, name: str | None = None) -> str:
    """A version as a file: the active one can be edited and accepted."""
    if name is not None:
        return taxonomy_text(version_tree(session, study, name))
    tree = tree_of(session, study)
    command = f"difflens taxonomy accept {study.path.name} FILE"
    return proposal_text(Proposal(taxonomy=tree, based_on=follow(tree)), command)


def version_rows(session: Session) -> QueryResult:
    """All stored versions, oldest first."""
    stored = versions(session)
    titles = {each.id: f"{each.name} {each.version}" for each in stored}
    rows = [
        (titles[each.id], titles.get(each.parent_version_id or 0), each.frozen, each.note,
         each.created_at)
        for each in stored
    ]  # fmt: skip
    columns = ("version", "follows", "frozen", "note", "created_at")
    return QueryResult(columns, tuple(rows), truncated=False)


def diff_rows(
    session: Session, study: StudyFile, old: str | None = None, new: str | None = None
) -> QueryResult:
    """Changes of the categories from one version to another, or to a file.

    Without names, from the previous to the active version. With one name, from the active version
    to that file, or from that version to the active one. Unchanged categories are left out.
    """
    current = stored_version(session, study)
    if current is None:
        raise UsageError("taxonomy diff: the database has no version yet; categorize first")
    if old is None:
        if current.parent_version_id is None:
            raise UsageError(
                f"taxonomy diff: {current.name} {current.version} is the first version"
            )
        before = session.get_one(TaxonomyVersion, current.parent_version_id)
        return _between_stored(session, before, current)
    if new is None and Path(old).suffix in (".yaml", ".yml"):
        return _to_file(session, current, Path(old))
    first = named_version(session, current, old)
    if new is not None and Path(new).suffix in (".yaml", ".yml"):
        return _to_file(session, first, Path(new))
    return _between_stored(
        session, first, current if new is None else named_version(session, current, new)
    )


def _to_file(session: Session, version: TaxonomyVersion, path: Path) -> QueryResult:
    tree = load_version(session, version.id)
    edit = load_proposal(path).edit_of(tree)
    return _rows(tree, edit, latents_under(session, version.id), None)


def _between_stored(session: Session, old: TaxonomyVersion, new: TaxonomyVersion) -> QueryResult:
    if load_version(session, old.id).categories == load_version(session, new.id).categories:
        # A restored version has no changes, although its steps dropped and added categories.
        return QueryResult(DIFF_COLUMNS, (), truncated=False)
    line = line_between(session, old.id, new.id) or [old, new]
    edit = _step(session, line[0], line[1]) if len(line) > 1 else None
    if edit is None:
        return QueryResult(DIFF_COLUMNS, (), truncated=False)
    for before, after in pairwise(line[1:]):
        edit = followed_by(edit, _step(session, before, after))
    return _rows(
        load_version(session, old.id),
        edit,
        latents_under(session, old.id),
        latents_under(session, new.id),
    )


def _step(session: Session, old: TaxonomyVersion, new: TaxonomyVersion) -> Edit:
    before, after = load_version(session, old.id), load_version(session, new.id)
    declared = _recorded(session, old, new)
    known = {change.slug for change in declared}
    gone = [
        CategoryEdit("dropped", slug)
        for slug in before.slugs
        if slug not in after and slug not in known
    ]
    return Edit(after, changes_between(before, after, [*declared, *gone]))


def _recorded(session: Session, old: TaxonomyVersion, new: TaxonomyVersion) -> list[CategoryEdit]:
    """Recorded changes of the step between two versions."""
    names = {
        row.id: row.slug
        for row in session.execute(
            select(Category.id, Category.slug).where(
                Category.taxonomy_version_id.in_((old.id, new.id))
            )
        )
    }
    own = select(Category.id).where(Category.taxonomy_version_id == old.id)
    found: dict[str, tuple[str, list[str]]] = {}
    rows = session.execute(
        select(CategoryMapping)
        .where(CategoryMapping.from_category_id.in_(own), CategoryMapping.kind != "same")
        .order_by(CategoryMapping.id)
    ).scalars()
    for row in rows:
        if row.to_category_id is not None and row.to_category_id not in names:
            continue
        if row.to_category_id is None and new.parent_version_id != old.id:
            continue
        _, targets = found.setdefault(names[row.from_category_id], (row.kind, []))
        targets += [] if row.to_category_id is None else [names[row.to_category_id]]
    return [
        CategoryEdit(kind, slug, tuple(targets))  # type: ignore[arg-type]
        for slug, (kind, targets) in found.items()
    ]


def _rows(
    old: Taxonomy, edit: Edit, before: Mapping[str, int], after: Mapping[str, int] | None
) -> QueryResult:
    def now(slugs: Iterable[str]) -> int | None:
        return None if after is None else sum(after.get(slug, 0) for slug in slugs)

    rows: list[tuple[object, ...]] = []
    for change in edit.changes:
        kind: str = change.kind
        if kind == "same":
            if not reworded(old.get(change.slug), edit.taxonomy.get(change.slug)):
                continue
            kind = "reworded"
        rows.append(
            (kind, change.slug, ", ".join(change.to), before.get(change.slug, 0), now(change.to))
        )
    rows += [("added", None, slug, 0, now([slug])) for slug in edit.added]
    return QueryResult(DIFF_COLUMNS, tuple(rows), truncated=False)


def _latents(session: Session, version: TaxonomyVersion | None) -> dict[str, int]:
    """Slug -> latents with this active primary category."""
    if version is None:
        return {}
    query = (
        select(Category.slug, func.count(EffectiveLabelCategory.latent_id.distinct()).label("n"))
        .join(EffectiveLabelCategory, EffectiveLabelCategory.category_id == Category.id)
        .where(Category.taxonomy_version_id == version.id, EffectiveLabelCategory.rank == 1)
        .group_by(Category.slug)
    )
    return {row.slug: row.n for row in session.execute(query)}


def named_version(
    session: Session, current: TaxonomyVersion, name: str, verb: str = "diff"
) -> TaxonomyVersion:
    """The version with that name, preferably of the current taxonomy.

    UsageError, which names `verb`, for an unknown name.
    """
    found = [
        each for each in versions(session) if name in (each.version, f"{each.name} {each.version}")
    ]
    own = [each for each in found if each.name == current.name] or found
    if not own:
        raise UsageError(
            f"taxonomy {verb}: no version {name!r}; there are {_listed(versions(session))}"
        )
    return own[-1]


def _listed(stored: Iterable[TaxonomyVersion]) -> str:
    return ", ".join(f"{each.name} {each.version}" for each in stored)
