"""Saved queries of the SQL page: those that are shipped, and `queries/*.sql` beside study.toml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

LARGEST_FILE = 100_000
MOST_FILES = 200


@dataclass(frozen=True)
class SavedQuery:
    """One question: its first line, a comment, is its title."""

    name: str
    title: str
    statement: str


def read_saved(folder: Path | None) -> Mapping[str, SavedQuery]:
    """All saved queries by name; one of the study takes the place of a shipped one."""
    shipped = resources.files("labeler.review").joinpath("queries")
    found = {
        entry.name: _saved(entry.name, entry.read_text(encoding="utf-8"))
        for entry in sorted(shipped.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".sql")
    }
    if folder is not None and folder.is_dir():
        for path in sorted(folder.glob("*.sql"))[:MOST_FILES]:
            if path.stat().st_size <= LARGEST_FILE:
                found[path.name] = _saved(path.name, path.read_text("utf-8", "replace"))
    return {query.name: query for query in found.values()}


def _saved(file_name: str, text: str) -> SavedQuery:
    name = file_name.removesuffix(".sql")
    first, _, rest = text.partition("\n")
    if first.startswith("--"):
        return SavedQuery(name, first.removeprefix("--").strip() or name, rest.strip())
    return SavedQuery(name, name, text.strip())
