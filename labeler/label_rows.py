"""The rows of a file of labels: how they are written to, and read from, CSV and JSONL."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crosscoder import limits
from labeler.csv_text import csv_for_people, unguarded
from labeler.errors import UsageError
from labeler.label_cells import category_cell, plain_signs, plain_text
from labeler.row_mistakes import RowMistakes
from labeler.store.latent_records import LARGEST_INDEX
from labeler.text import clip

KEY_COLUMNS = ("comparison", "side", "crosscoder", "latent_index")
COLUMNS = (
    *KEY_COLUMNS, "explanation", "category", "note", "confidence", "source", "decided_by",
    "base_revision", "base",
)  # fmt: skip
REQUIRED = (*KEY_COLUMNS, "explanation", "category", "base_revision")
_BARE_BASE = re.compile("[0-9a-f]{12}")


@dataclass(frozen=True)
class LatentKey:
    """A latent as a file names it."""

    comparison: str
    side: str
    crosscoder: str
    latent_index: int

    def __str__(self) -> str:
        return f"{self.crosscoder}:{self.latent_index}"


@dataclass(frozen=True)
class LabelContent:
    """What a reviewer can change."""

    category: str
    """Slugs joined by `;`, `none`, `uninterpretable`, or empty = not labelled."""
    explanation: str

    def says_the_same(self, other: LabelContent) -> bool:
        """Whether nothing differs but what a spreadsheet changes unasked."""
        return self.category == other.category and self.has_the_words_of(other)

    def has_the_words_of(self, other: LabelContent) -> bool:
        """Whether the explanation reads the same."""
        return plain_signs(self.explanation) == plain_signs(other.explanation)

    @property
    def base(self) -> str:
        """Short hash by which an import tells an edited row from an untouched one.

        It begins with a letter: spreadsheets take 12 digits, or `1e5`, for a number.
        """
        text = json.dumps([self.category, plain_text(self.explanation)], ensure_ascii=False)
        return "h" + hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]


@dataclass(frozen=True)
class ExportRow:
    """One label in force."""

    key: LatentKey
    content: LabelContent
    confidence: float | None
    source: str | None
    decided_by: str | None
    """The judge or the reviewer."""
    base_revision: int
    """How many decisions the latent had when the file was written."""

    def record(self) -> dict[str, Any]:
        """Column -> value."""
        return {
            **self.key.__dict__,
            "explanation": self.content.explanation,
            "category": self.content.category,
            "note": "",
            "confidence": self.confidence,
            "source": self.source,
            "decided_by": self.decided_by,
            "base_revision": self.base_revision,
            "base": self.content.base,
        }


@dataclass(frozen=True)
class EditedRow:
    """One row of a file that comes back; `number` counts as a spreadsheet or editor does."""

    number: int
    key: LatentKey
    content: LabelContent
    note: str | None
    base_revision: int
    base: str | None
    """None in a file that was not exported."""


SPREADSHEETS = frozenset({".xlsx", ".xls", ".ods", ".numbers"})


def is_jsonl(path: Path) -> bool:
    """Whether the name asks for JSON lines; UsageError for a spreadsheet program's own format."""
    suffix = path.suffix.lower()
    if suffix in SPREADSHEETS:
        raise UsageError(f"{path}: {suffix} files are not read or written; name a .csv or .jsonl")
    return suffix in (".jsonl", ".ndjson")


def write_rows(path: Path, rows: Iterable[ExportRow]) -> int:
    """Write a file; returns the number of rows."""
    records = [row.record() for row in rows]
    if is_jsonl(path):
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    else:
        text = csv_for_people(COLUMNS, [[record[name] for name in COLUMNS] for record in records])
    try:
        path.write_bytes(text.encode("utf-8"))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}; name a file") from None
    return len(records)


def read_edited(path: Path) -> list[EditedRow]:
    """The rows of a file; UsageError names the file, every wrong row and its mend."""
    text = limits.read_text(path)
    mistakes = RowMistakes(path)
    records = _jsonl_records if is_jsonl(path) else _csv_records
    rows: list[EditedRow] = []
    for number, record in records(path, text, mistakes):
        with mistakes.gathered():
            rows.append(_edited(path, number, record))
    mistakes.require_none()
    return rows


def _csv_records(
    path: Path, text: str, mistakes: RowMistakes
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    first = text.lstrip().partition("\n")[0]
    if first.count(";") > max(first.count(","), first.count("\t")):
        raise UsageError(f"{path}: is separated by semicolons; save it with commas, or as .jsonl")
    mark = "\t" if first.count("\t") > first.count(",") else ","
    header: list[str] | None = None
    for number, values in limits.csv_rows(text, path, mark):
        if not any(values):
            continue
        if header is None:
            header = [name.strip().casefold() for name in values]
            _require_columns(path, header)
        elif len(values) != len(header):
            mistakes.add(
                f"{path}: row {number}: has {len(values)} fields, the header has {len(header)}"
            )
        else:
            cells = dict(zip(header, values, strict=True))
            yield number, {name: unguarded(value.strip()) for name, value in cells.items()}
    if header is None:
        raise UsageError(f"{path}: is empty; `difflens labels export` writes one")


def _jsonl_records(
    path: Path, text: str, mistakes: RowMistakes
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in limits.lines_of(text, path):
        record = None
        with mistakes.gathered():
            record = limits.parse_json(line, f"{path}: line {number}")
            if not isinstance(record, dict):
                raise UsageError(f"{path}: line {number}: must be an object")
        if not isinstance(record, dict):
            continue
        named = {name.strip().casefold(): value for name, value in record.items()}
        _require_columns(f"{path}: line {number}", named)
        yield number, named


def _require_columns(where: object, names: Iterable[str]) -> None:
    present = list(names)
    for name in REQUIRED:
        if name not in present:
            raise UsageError(f"{where}: column {name!r} is missing; export the labels again")


def _edited(path: Path, number: int, record: Mapping[str, Any]) -> EditedRow:
    where = f"{path}: row {number}"
    return EditedRow(
        number=number,
        key=LatentKey(
            str(record["comparison"]).strip(),
            str(record["side"]).strip(),
            str(record["crosscoder"]).strip(),
            _whole_number(where, "latent_index", record["latent_index"]),
        ),
        content=LabelContent(
            category_cell(str(record["category"] or "")),
            plain_text(str(record["explanation"] or "")),
        ),
        note=str(record.get("note") or "").strip() or None,
        base_revision=_whole_number(where, "base_revision", record["base_revision"]),
        base=_base(str(record.get("base") or "").strip()),
    )


def _base(cell: str) -> str | None:
    """The hash, in files of older versions too, which wrote it without its letter."""
    return f"h{cell}" if _BARE_BASE.fullmatch(cell) else cell or None


def _whole_number(where: str, column: str, value: Any) -> int:
    number = limits.whole_number(str(value).strip().removesuffix(".0"), LARGEST_INDEX)
    if number is None:
        shown = clip(str(value), 40)
        raise UsageError(f"{where}: {column} is {shown!r}; leave it as it was exported")
    return number
