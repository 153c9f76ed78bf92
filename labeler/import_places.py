"""Puts imported latents where they belong: crosscoders, latent sets, comparisons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from labeler.errors import UsageError
from labeler.import_rows import ImportRow, LatentName
from labeler.store.effective import refresh_effective
from labeler.store.helpers import chunks
from labeler.store.latent_records import (
    LatentRow,
    MemberRow,
    add_latents,
    add_members,
    create_latent_set,
    ensure_comparison,
    find_comparison,
    get_or_create_crosscoder,
)
from labeler.store.schema import SIDES, Comparison, Latent, LatentSet, LatentSetMember

RULE = "imported"


@dataclass(frozen=True)
class PlacedLatents:
    """Where the rows of a file ended up."""

    latent_ids: dict[LatentName, int]
    n_new_members: int


def place_latents(
    session: Session, source: Path, rows: Sequence[ImportRow], run_id: Callable[[], int]
) -> PlacedLatents:
    """Add what is missing of crosscoders, latents, sets and comparisons, removing nothing.

    UsageError for a latent that lies on the other side, is no latent of a trained crosscoder, or
    is no member of a set that a rule made.
    """
    latent_ids = _latents(session, source, rows)
    n_new = 0
    for name in dict.fromkeys(row.comparison for row in rows):
        own = [row for row in rows if row.comparison == name]
        n_new += _members(session, source, name, own, latent_ids, run_id)
    return PlacedLatents(latent_ids, n_new)


def _latents(session: Session, source: Path, rows: Sequence[ImportRow]) -> dict[LatentName, int]:
    ids: dict[LatentName, int] = {}
    for name in dict.fromkeys(row.latent.crosscoder for row in rows):
        first = {row.latent: row for row in reversed(rows) if row.latent.crosscoder == name}
        crosscoder = get_or_create_crosscoder(session, name)
        if crosscoder.sha256 is not None:
            _require_latents(session, source, crosscoder.id, first)
        wanted = [LatentRow(latent.latent_index) for latent in first]
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
    name: str,
    rows: Sequence[ImportRow],
    latent_ids: Mapping[LatentName, int],
    run_id: Callable[[], int],
) -> int:
    comparison = find_comparison(session, name) or _new_comparison(session, name, run_id())
    sets = {"target": comparison.target_set_id, "reference": comparison.reference_set_id}
    present = {side: _member_ids(session, latent_set_id) for side, latent_set_id in sets.items()}
    fresh: dict[str, list[int]] = {side: [] for side in SIDES}
    for row in rows:
        latent_id = latent_ids[row.latent]
        if latent_id in present[row.side]:
            continue
        _check_new_member(session, source, row, sets[row.side], latent_id, present)
        fresh[row.side].append(latent_id)
    n_new = sum(
        add_members(session, sets[side], [MemberRow(latent_id) for latent_id in fresh[side]])
        for side in SIDES
    )
    if n_new:
        run_id()
        refresh_effective(session, latent_ids=[*fresh["target"], *fresh["reference"]])
    return n_new


def _check_new_member(
    session: Session,
    source: Path,
    row: ImportRow,
    latent_set_id: int,
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
    rule = session.get_one(LatentSet, latent_set_id).rule
    if rule != RULE:
        raise UsageError(
            f"{source}: row {row.number}: latent {row.latent.latent_index} of"
            f" {row.latent.crosscoder} is not in the {row.side} set of {row.comparison}, which"
            f" the rule {rule!r} made; use another comparison name"
        )


def _member_ids(session: Session, latent_set_id: int) -> set[int]:
    query = select(LatentSetMember.latent_id).where(LatentSetMember.latent_set_id == latent_set_id)
    return set(session.execute(query).scalars())


def _new_comparison(session: Session, name: str, run_id: int) -> Comparison:
    target, reference = (
        create_latent_set(session, f"{name}/{side}", RULE, run_id) for side in SIDES
    )
    return ensure_comparison(session, name, target.id, reference.id)
