"""The categories that a study uses."""

from __future__ import annotations

from labeler.errors import UsageError
from labeler.study import StudyFile
from taxonomy.tree import Taxonomy, load_taxonomy, seed_taxonomy


def study_taxonomy(study: StudyFile) -> Taxonomy:
    """The categories that `[taxonomy]` names."""
    named = study.config.taxonomy.file
    if named is None:
        return seed_taxonomy()
    path = study.resolve(named)
    if not path.is_file():
        raise UsageError(f"taxonomy.file: no file at {path}")
    return load_taxonomy(path)
