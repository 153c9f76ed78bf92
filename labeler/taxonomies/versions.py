"""Finds the taxonomy version of a study."""

from __future__ import annotations

from sqlalchemy.orm import Session

from labeler.store.schema import TaxonomyVersion
from labeler.store.taxonomies import (
    current_version,
    find_version,
    load_version,
    newest_in_line,
    newest_induced,
)
from labeler.study.study_file import StudyFile, study_taxonomy
from taxonomy.tree import Taxonomy

UNREAD = " (nobody read it)"
"""End of the note of a version that was accepted by `taxonomy.accept = "auto"`."""


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
