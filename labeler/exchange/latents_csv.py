"""Reads and checks latents.csv, and stores its latents and set members."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from crosscoder import limits
from crosscoder.config import SIDES
from labeler.errors import UsageError
from labeler.store.latents import (
    add_latents,
    add_members,
    create_latent_set,
    ensure_comparison,
    find_comparison,
    get_or_create_crosscoder,
)
from labeler.store.schema import Comparison, Latent, LatentSet, LatentSetMember
from labeler.store.statements import chunks
from labeler.text import clip

REQUIRED = ("comparison", "side", "latent_index", "explanation", "category")
OPTIONAL = ("crosscoder", "judge", "confidence")
RESERVED = ("none", "uninterpretable")
"""Values of `category` other than slugs."""
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
    """One row of latents.csv; `number` counts like a spreadsheet, where the header is row 1."""

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
        """Outcome of the row's label."""
        return self.category if self.category in RESERVED else "assigned"

    @property
    def slug(self) -> str | None:
        """Slug of the category; None for reserved words and unlabelled rows."""
        return None if self.category in RESERVED else self.category


def read_rows(path: Path) -> list[ImportRow]:
    """The rows of a file; UsageError names the file, the row and the fix."""
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
    """Non-blank rows with their numbers."""
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
    """A judge must give a latent the same label in all comparisons."""
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


RULE = "imported"


@dataclass(frozen=True)
class PlacedLatents:
    """Ids of the latents of a file, and the new set members."""

    latent_ids: dict[LatentName, int]
    new_members: tuple[int, ...]
    """Ids of latents added to a side; their effective labels are not refreshed yet."""


def ensure_imported_comparison(
    session: Session, name: str, run_id: Callable[[], int]
) -> Comparison:
    """The comparison of that name; a new one gets two empty sets with the rule `imported`."""
    found = find_comparison(session, name)
    if found is not None:
        return found
    target, reference = (
        create_latent_set(session, f"{name}/{side}", RULE, run_id()) for side in SIDES
    )
    return ensure_comparison(session, name, target.id, reference.id)


def place_latents(
    session: Session,
    source: Path,
    rows: Sequence[ImportRow],
    comparisons: Mapping[str, Comparison],
) -> PlacedLatents:
    """Add missing crosscoders, latents and set members; nothing is removed.

    UsageError for a latent that is on the other side, that a trained crosscoder does not have, or
    that is not in a set made by another rule.
    """
    latent_ids = _latents(session, source, rows)
    new: list[int] = []
    for name, comparison in comparisons.items():
        own = [row for row in rows if row.comparison == name]
        new += _members(session, source, comparison, own, latent_ids)
    return PlacedLatents(latent_ids, tuple(new))


def _latents(session: Session, source: Path, rows: Sequence[ImportRow]) -> dict[LatentName, int]:
    ids: dict[LatentName, int] = {}
    for name in dict.fromkeys(row.latent.crosscoder for row in rows):
        first = {row.latent: row for row in reversed(rows) if row.latent.crosscoder == name}
        crosscoder = get_or_create_crosscoder(session, name)
        if crosscoder.sha256 is not None:
            _require_latents(session, source, crosscoder.id, first)
        wanted = [{"latent_index": latent.latent_index} for latent in first]
        found = add_latents(session, crosscoder.id, wanted)
        ids |= {LatentName(name, index): latent_id for index, latent_id in found.items()}
    return ids


def _require_latents(
    session: Session, source: Path, crosscoder_id: int, rows: Mapping[LatentName, ImportRow]
) -> None:
    """UsageError for latents that a trained crosscoder does not have."""
    present: set[int] = set()
    for part in chunks(latent.latent_index for latent in rows):
        query = select(Latent.latent_index).where(
            Latent.crosscoder_id == crosscoder_id, Latent.latent_index.in_(part)
        )
        present |= set(session.execute(query).scalars())
    for latent, row in sorted(rows.items(), key=lambda item: item[1].number):
        if latent.latent_index not in present:
            raise UsageError(
                f"{source}: row {row.number}: crosscoder {latent.crosscoder} has no latent"
                f" {latent.latent_index}; correct latent_index"
            )


def _members(
    session: Session,
    source: Path,
    comparison: Comparison,
    rows: Sequence[ImportRow],
    latent_ids: Mapping[LatentName, int],
) -> list[int]:
    """Returns the ids of the latents that were added."""
    sets = {"target": comparison.target_set_id, "reference": comparison.reference_set_id}
    rules = {side: session.get_one(LatentSet, key).rule for side, key in sets.items()}
    present = {side: _member_ids(session, key) for side, key in sets.items()}
    fresh: dict[str, list[int]] = {side: [] for side in SIDES}
    for row in rows:
        latent_id = latent_ids[row.latent]
        if latent_id not in present[row.side]:
            _check_new_member(source, row, rules[row.side], latent_id, present)
            fresh[row.side].append(latent_id)
    for side in SIDES:
        add_members(session, sets[side], [{"latent_id": latent_id} for latent_id in fresh[side]])
    return sorted({*fresh["target"], *fresh["reference"]})


def _check_new_member(
    source: Path,
    row: ImportRow,
    rule: str,
    latent_id: int,
    present: Mapping[str, set[int]],
) -> None:
    other = next(side for side in SIDES if side != row.side)
    if latent_id in present[other]:
        raise UsageError(
            f"{source}: row {row.number}: latent {row.latent.latent_index} of"
            f" {row.latent.crosscoder} lies on the {other} side of {row.comparison} already;"
            " correct side"
        )
    if rule != RULE:
        raise UsageError(
            f"{source}: row {row.number}: latent {row.latent.latent_index} of"
            f" {row.latent.crosscoder} is not in the {row.side} set of {row.comparison}, which"
            f" the rule {rule!r} made; use another comparison name"
        )


def _member_ids(session: Session, latent_set_id: int) -> set[int]:
    query = select(LatentSetMember.latent_id).where(LatentSetMember.latent_set_id == latent_set_id)
    return set(session.execute(query).scalars())
