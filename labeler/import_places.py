"""Puts imported latents where they belong: crosscoders, latent sets, comparisons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from crosscoder.settings import SIDES
from labeler.errors import UsageError
from labeler.import_rows import ImportRow, LatentName
from labeler.store.helpers import chunks
from labeler.store.latent_records import (
    add_latents,
    add_members,
    create_latent_set,
    ensure_comparison,
    find_comparison,
    get_or_create_crosscoder,
)
from labeler.store.schema import Comparison, Latent, LatentSet, LatentSetMember

RULE = "imported"


@dataclass(frozen=True)
class PlacedLatents:
    """Where the rows of a file ended up."""

    latent_ids: dict[LatentName, int]
    new_members: tuple[int, ...]
    """Latent ids that were added to a side; their effective labels are still to be refreshed."""


def ensure_imported_comparison(
    session: Session, name: str, run_id: Callable[[], int]
) -> Comparison:
    """The comparison of that name; a new one has two empty sets of the rule `imported`."""
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
    """Add what is missing of crosscoders, latents and members of sets, removing nothing.

    UsageError for a latent that lies on the other side, is no latent of a trained crosscoder, or
    is no member of a set that a rule made.
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
    """A trained crosscoder has the latents it has: a file cannot add any."""
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
