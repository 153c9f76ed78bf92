"""Reads latents.csv: its columns, its rows, and what they may not contradict."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from crosscoder import limits
from crosscoder.settings import SIDES
from labeler.errors import UsageError
from labeler.text import clip

REQUIRED = ("comparison", "side", "latent_index", "explanation", "category")
OPTIONAL = ("crosscoder", "judge", "confidence")
RESERVED = ("none", "uninterpretable")
"""What `category` may say besides a slug."""
DEFAULT_JUDGE = "imported"
_MAX_INDEX = 2**31 - 1
_MAX_NAME = 200


@dataclass(frozen=True)
class LatentName:
    """A latent as a file names it."""

    crosscoder: str
    latent_index: int


@dataclass(frozen=True)
class ImportRow:
    """One row of latents.csv; `number` counts as a spreadsheet does, the header being row 1."""

    number: int
    comparison: str
    side: str
    latent: LatentName
    judge: str
    explanation: str | None
    category: str | None
    """A slug, `none` or `uninterpretable`; None = not labelled."""
    confidence: float | None

    @property
    def outcome(self) -> str:
        """The outcome of the label that the row gives."""
        return self.category if self.category in RESERVED else "assigned"

    @property
    def slug(self) -> str | None:
        """The category's slug; None for the reserved words and where not labelled."""
        return None if self.category in RESERVED else self.category


def read_rows(path: Path) -> list[ImportRow]:
    """The rows of a file; UsageError names the file, the row and the mend."""
    records = _records(path)
    header = next(records, None)
    if header is None:
        raise UsageError(f"{path}: is empty; the first row must be {','.join(REQUIRED)}")
    columns = _columns(path, header[1])
    rows = [_row(path, number, columns, values) for number, values in records]
    _refuse_repeated_keys(path, rows)
    _refuse_both_sides(path, rows)
    _refuse_contradictions(path, rows)
    return rows


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, with their numbers."""
    for number, values in limits.csv_rows(limits.read_text(path), path):
        if any(value.strip() for value in values):
            yield number, values


def _columns(path: Path, header: Sequence[str]) -> list[str]:
    columns = [name.strip() for name in header]
    if len(columns) == 1 and any(mark in columns[0] for mark in ";\t"):
        raise UsageError(f"{path}: the header has no commas; save the file with commas")
    for name in REQUIRED:
        if name not in columns:
            raise UsageError(f"{path}: column {name!r} is missing; add it to the header")
    for name in columns:
        if name not in REQUIRED + OPTIONAL:
            known = ", ".join(REQUIRED + OPTIONAL)
            raise UsageError(f"{path}: unknown column {name!r}; remove it (columns: {known})")
        if columns.count(name) > 1:
            raise UsageError(f"{path}: column {name!r} occurs twice; keep one")
    return columns


def _row(path: Path, number: int, columns: Sequence[str], values: Sequence[str]) -> ImportRow:
    where = f"{path}: row {number}"
    if len(values) != len(columns):
        raise UsageError(
            f"{where}: has {len(values)} fields, the header has {len(columns)};"
            " put text with commas in double quotes"
        )
    cells = {name: value.strip() for name, value in zip(columns, values, strict=True)}
    comparison = _name(where, "comparison", cells["comparison"])
    side = cells["side"]
    if side not in SIDES:
        raise UsageError(f"{where}: side is {clip(side, 40)!r}; write target or reference")
    crosscoder = cells.get("crosscoder") or f"imported:{comparison}:{side}"
    return ImportRow(
        number=number,
        comparison=comparison,
        side=side,
        latent=LatentName(
            _name(where, "crosscoder", crosscoder), _index(where, cells["latent_index"])
        ),
        judge=_name(where, "judge", cells.get("judge") or DEFAULT_JUDGE),
        explanation=cells["explanation"] or None,
        category=cells["category"] or None,
        confidence=_confidence(where, cells),
    )


def _name(where: str, column: str, value: str) -> str:
    if not value:
        raise UsageError(f"{where}: {column} is empty; give it a name")
    limit = _MAX_NAME + (80 if column == "crosscoder" else 0)
    if len(value) > limit:
        raise UsageError(f"{where}: {column} is longer than {limit} characters; shorten it")
    return value


def _index(where: str, value: str) -> int:
    index = limits.whole_number(value, _MAX_INDEX)
    if index is None:
        shown = clip(value, 40)
        raise UsageError(f"{where}: latent_index is {shown!r}; write a whole number from 0 on")
    return index


def _confidence(where: str, cells: Mapping[str, str]) -> float | None:
    value = cells.get("confidence", "")
    if not value:
        return None
    try:
        confidence = float(value)
    except ValueError:
        confidence = math.nan
    if not 0 <= confidence <= 1:
        raise UsageError(f"{where}: confidence is {clip(value, 40)!r}; write a number from 0 to 1")
    return confidence


def _refuse_repeated_keys(path: Path, rows: Sequence[ImportRow]) -> None:
    seen: dict[tuple[str, str, LatentName, str], int] = {}
    for row in rows:
        key = (row.comparison, row.side, row.latent, row.judge)
        if key in seen:
            raise UsageError(
                f"{path}: rows {seen[key]} and {row.number} both label latent"
                f" {row.latent.latent_index} of {row.latent.crosscoder} by {row.judge!r} on the"
                f" {row.side} side of {row.comparison}; keep one"
            )
        seen[key] = row.number


def _refuse_both_sides(path: Path, rows: Sequence[ImportRow]) -> None:
    seen: dict[tuple[str, LatentName], ImportRow] = {}
    for row in rows:
        first = seen.setdefault((row.comparison, row.latent), row)
        if first.side != row.side:
            raise UsageError(
                f"{path}: rows {first.number} and {row.number} put latent"
                f" {row.latent.latent_index} of {row.latent.crosscoder} on both sides of"
                f" {row.comparison}; keep one"
            )


def _refuse_contradictions(path: Path, rows: Sequence[ImportRow]) -> None:
    """One judge gives a latent one label, however many comparisons it lies in."""
    seen: dict[tuple[LatentName, str], ImportRow] = {}
    for row in rows:
        first = seen.setdefault((row.latent, row.judge), row)
        if (first.explanation, first.category, first.confidence) != (
            row.explanation,
            row.category,
            row.confidence,
        ):
            raise UsageError(
                f"{path}: rows {first.number} and {row.number} give latent"
                f" {row.latent.latent_index} of {row.latent.crosscoder} different labels by"
                f" {row.judge!r}; make them equal"
            )
