"""Saved queries: those shipped with difflens, and the study's own folder of `.sql` files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from rapidfuzz import process

from crosscoder.limits import MAX_CONFIG_BYTES, read_text
from labeler.errors import UsageError

SHIPPED = Path(__file__).with_name("queries")
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
MOST_FILES = 1_000


@dataclass(frozen=True)
class SavedQuery:
    """A query with a name."""

    name: str
    title: str
    """Its first line, where that is a comment; else its name."""
    statement: str
    source: Literal["study", "difflens"]


def saved_queries(folder: Path | None = None) -> tuple[SavedQuery, ...]:
    """All saved queries by name; one of the study's `folder` replaces a shipped one of its name.

    UsageError names a file that is too large or cannot be read, and a folder of too many.
    """
    found = {query.name: query for query in _read_folder(SHIPPED, "difflens")}
    if folder is not None:
        found |= {query.name: query for query in _read_folder(folder, "study")}
    return tuple(found[name] for name in sorted(found))


def find_query(folder: Path, name: str) -> SavedQuery:
    """The saved query of that name; UsageError with the nearest name."""
    queries = {query.name: query for query in saved_queries(folder)}
    if name not in queries:
        nearest = process.extractOne(name, list(queries))
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise UsageError(f"sql: no saved query is named {name!r}{hint}")
    return queries[name]


def save_query(folder: Path, name: str, statement: str) -> Path:
    """Write a query into the study's folder; UsageError for a name that is taken or no name."""
    if not NAME_PATTERN.fullmatch(name):
        raise UsageError(f"--save: {name!r} is no name; use letters, digits, '.', '_' and '-'")
    path = folder / f"{name}.sql"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(statement.strip() + "\n")
    except FileExistsError:
        raise UsageError(f"--save: {path} is there already; edit it or choose a name") from None
    return path


def _read_folder(folder: Path, source: Literal["study", "difflens"]) -> list[SavedQuery]:
    paths = list(islice(folder.glob("*.sql"), MOST_FILES + 1))
    if len(paths) > MOST_FILES:
        raise UsageError(f"{folder}: holds more than {MOST_FILES:,} saved queries; remove some")
    return [_read(path, source) for path in sorted(paths)]


def _read(path: Path, source: Literal["study", "difflens"]) -> SavedQuery:
    statement = read_text(path, MAX_CONFIG_BYTES).strip()
    first = statement.partition("\n")[0]
    title = first.removeprefix("--").strip() if first.startswith("--") else ""
    return SavedQuery(path.stem, title or path.stem, statement, source)
