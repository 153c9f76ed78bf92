"""The categories that a study uses, and the files that people write them into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crosscoder import limits
from labeler.errors import UsageError
from labeler.study import StudyFile
from taxonomy.proposal import Proposal, proposal_from
from taxonomy.tree import Taxonomy, UniqueKeyLoader, seed_taxonomy, taxonomy_from


def study_taxonomy(study: StudyFile) -> Taxonomy:
    """The categories that `[taxonomy]` names."""
    named = study.config.taxonomy.file
    if named is None:
        return seed_taxonomy()
    path = study.resolve(named)
    if not path.is_file():
        raise UsageError(f"taxonomy.file: no file at {path}")
    return load_taxonomy(path)


def load_taxonomy(path: Path) -> Taxonomy:
    """Read a taxonomy file; InputError names the file and the key that is wrong."""
    return taxonomy_from(_content(path), str(path))


def load_proposal(path: Path) -> Proposal:
    """Read a proposal or a plain taxonomy file; InputError names the file and the key."""
    return proposal_from(_content(path), str(path))


def _content(path: Path) -> Any:
    text = limits.read_text(path, limits.MAX_CONFIG_BYTES)
    return limits.load_yaml(text, path, UniqueKeyLoader)
