"""Reads and writes label files in CSV and JSONL."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crosscoder import limits
from labeler.errors import UsageError
from labeler.store.latents import LARGEST_INDEX
from labeler.text import clip, csv_for_people, unguarded
from taxonomy.tree import Taxonomy

SEPARATOR = ";"
"""Separates the slugs of a cell; the primary one is first."""
RESERVED = ("none", "uninterpretable")
_TYPED = str.maketrans({
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2026": "...", "\xa0": " ",
    "\u202f": " ", "\u2013": "-", "\u2014": "--",
})  # fmt: skip


def plain_text(text: str) -> str:
    """The text without differences that spreadsheets add: outer space, line ends, normal form."""
    lines = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join(line.rstrip() for line in lines).strip()


def plain_signs(text: str) -> str:
    """The text with plain quotes, dashes and spaces instead of typographic ones."""
    return plain_text(text.translate(_TYPED))


def category_cell(text: str) -> str:
    """A cell's parts joined again, without outer space and empty parts."""
    parts = (part.strip() for part in text.split(SEPARATOR))
    return SEPARATOR.join(part for part in parts if part)


def slugs_of(category: str) -> tuple[str, ...]:
    """The slugs of a cell; empty for a reserved word."""
    return () if category in RESERVED else tuple(category.split(SEPARATOR))


def by_slug(category: str, taxonomy: Taxonomy) -> str:
    """The cell with slugs instead of titles and of slugs in another case.

    Other text stays as it is. UsageError for a title that several categories have.
    """
    return SEPARATOR.join(_slug(part, taxonomy) for part in category.split(SEPARATOR) if part)


def _slug(part: str, taxonomy: Taxonomy) -> str:
    folded = part.casefold()
    if part in taxonomy or part in RESERVED:
        return part
    if folded in taxonomy or folded in RESERVED:
        return folded
    named = [each.slug for each in taxonomy.categories if each.name.casefold() == folded]
    if len(named) > 1:
        raise UsageError(
            f"category {part!r} is the title of several; write the slug: {' or '.join(named)}"
        )
    return named[0] if named else part


SHOWN = 20
"""Mistakes that are listed; the rest are counted."""


class RowMistakes:
    """Collects the mistakes of a file, row by row."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self._found: list[str] = []

    def add(self, words: str) -> None:
        """Add a mistake."""
        self._found.append(words)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Collect a UsageError of the block, so that the next row is read."""
        try:
            yield
        except UsageError as error:
            self.add(str(error))

    def require_none(self) -> None:
        """Raise one UsageError that lists all mistakes, one per line."""
        if not self._found:
            return
        if len(self._found) == 1:
            raise UsageError(self._found[0])
        lines = [words.removeprefix(f"{self._source}: ") for words in self._found[:SHOWN]]
        if len(self._found) > SHOWN:
            lines.append(f"and {len(self._found) - SHOWN} more")
        raise UsageError(
            f"{self._source}: nothing imported, {len(self._found)} mistakes:\n" + "\n".join(lines)
        )


KEY_COLUMNS = ("comparison", "side", "crosscoder", "latent_index")
COLUMNS = (
    *KEY_COLUMNS, "explanation", "category", "note", "confidence", "source", "decided_by",
    "strength_shift", "base_revision", "base",
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
    """The parts of a row that a reviewer can change."""

    category: str
    """Slugs joined by `;`, `none`, `uninterpretable`, or empty = not labelled."""
    explanation: str

    def says_the_same(self, other: LabelContent) -> bool:
        """Whether category and explanation are equal, apart from a spreadsheet's own changes."""
        return self.category == other.category and self.has_the_words_of(other)

    def has_the_words_of(self, other: LabelContent) -> bool:
        """Whether the explanation is equal, apart from a spreadsheet's own changes."""
        return plain_signs(self.explanation) == plain_signs(other.explanation)

    @property
    def base(self) -> str:
        """Short hash by which an import recognises edited rows.

        It begins with a letter, because spreadsheets take 12 digits, or `1e5`, for a number.
        """
        text = json.dumps([self.category, plain_text(self.explanation)], ensure_ascii=False)
        return "h" + hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]


@dataclass(frozen=True)
class ExportRow:
    """One active label."""

    key: LatentKey
    content: LabelContent
    confidence: float | None
    source: str | None
    decided_by: str | None
    """The judge or the reviewer."""
    base_revision: int
    """Number of the latent's decisions when the file was written."""
    strength_shift: float | None = None
    """For the reader; an import ignores it."""

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
            "strength_shift": self.strength_shift,
            "base_revision": self.base_revision,
            "base": self.content.base,
        }


@dataclass(frozen=True)
class EditedRow:
    """One row of an edited file; `number` counts like a spreadsheet or editor."""

    number: int
    key: LatentKey
    content: LabelContent
    note: str | None
    base_revision: int
    base: str | None
    """None in a file that was not exported."""


SPREADSHEETS = frozenset({".xlsx", ".xls", ".ods", ".numbers"})


def is_jsonl(path: Path) -> bool:
    """Whether the name ends in .jsonl or .ndjson; UsageError for a spreadsheet program's format."""
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
    """The rows of a file; UsageError names the file, every wrong row and its fix."""
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
    """The hash; older versions wrote it without the letter."""
    return f"h{cell}" if _BARE_BASE.fullmatch(cell) else cell or None


def _whole_number(where: str, column: str, value: Any) -> int:
    number = limits.whole_number(str(value).strip().removesuffix(".0"), LARGEST_INDEX)
    if number is None:
        shown = clip(str(value), 40)
        raise UsageError(f"{where}: {column} is {shown!r}; leave it as it was exported")
    return number
