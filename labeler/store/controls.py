"""Control latents: shared by both models, as dense as the specific ones, labelled like these.

Their categories are base rates of the judge. They belong to no latent set, so they have no
effective label and no change counts them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from labeler.store.schema import (
    Comparison,
    ControlLatent,
    Latent,
    LatentScaling,
    LatentSet,
    LatentSetMember,
)
from labeler.store.statements import chunks

SHARED_NORM = (0.4, 0.6)
"""Range of delta_norm in which a latent counts as shared (arXiv 2504.02922)."""


@dataclass(frozen=True)
class _Dense:
    """A latent and how often it fires."""

    latent_id: int
    density: float


def ensure_controls(
    session: Session, run_id: int, comparison_ids: Iterable[int], wanted: int, seed: int
) -> list[int]:
    """Draw the control latents of some comparisons for one run; returns them, each once.

    In an order drawn by `seed`, each specific latent takes the free shared latent whose density is
    nearest on a logarithmic scale. A latent that is specific in any comparison is never a control.
    A run draws only once.
    """
    specific = _specific(session)
    drawn: dict[int, None] = {}
    for comparison_id in comparison_ids:
        known = select(ControlLatent.latent_id).where(
            ControlLatent.run_id == run_id, ControlLatent.comparison_id == comparison_id
        )
        latents = list(session.execute(known.order_by(ControlLatent.id)).scalars())
        if not latents and wanted:
            latents = _draw(session, run_id, comparison_id, wanted, seed, specific)
        drawn.update(dict.fromkeys(latents))
    return list(drawn)


def control_latents(session: Session, comparison_ids: Collection[int]) -> list[int]:
    """The active control latents of some comparisons, each once, in the order of the draw."""
    newest = (
        select(func.max(ControlLatent.run_id))
        .where(ControlLatent.comparison_id.in_(list(comparison_ids)))
        .group_by(ControlLatent.comparison_id)
    )
    query = (
        select(ControlLatent.latent_id)
        .where(
            ControlLatent.comparison_id.in_(list(comparison_ids)),
            ControlLatent.run_id.in_(newest),
        )
        .order_by(ControlLatent.id)
    )
    return list(dict.fromkeys(session.execute(query).scalars()))


def mixed(latents: Sequence[int], controls: Sequence[int]) -> list[int]:
    """Latents and controls in one list, the controls spread evenly."""
    step = max(1, len(latents) // (len(controls) + 1))
    result = list(latents)
    for number, control in enumerate(controls, start=1):
        result.insert(min(number * (step + 1) - 1, len(result)), control)
    return list(dict.fromkeys(result))


def _draw(
    session: Session,
    run_id: int,
    comparison_id: int,
    wanted: int,
    seed: int,
    specific: set[int],
) -> list[int]:
    comparison = session.get_one(Comparison, comparison_id)
    members = [
        *_members(session, comparison.target_set_id),
        *_members(session, comparison.reference_set_id),
    ]
    members.sort(key=lambda item: _order(seed, comparison.name, item.latent_id))
    free = {
        item.latent_id: item
        for item in _shared(session, comparison)
        if item.latent_id not in specific
    }
    chosen: list[int] = []
    for member in members:
        if len(chosen) == wanted or not free:
            break
        nearest = min(free.values(), key=lambda item: (_distance(item, member), item.latent_id))
        del free[nearest.latent_id]
        chosen.append(nearest.latent_id)
        session.add(
            ControlLatent(
                run_id=run_id,
                comparison_id=comparison_id,
                latent_id=nearest.latent_id,
                matched_latent_id=member.latent_id,
            )
        )
    session.flush()
    return chosen


def _order(seed: int, comparison: str, latent_id: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{comparison}\0{latent_id}".encode()).digest()


def _distance(one: _Dense, other: _Dense) -> float:
    return abs(math.log(one.density / other.density))


def _specific(session: Session) -> set[int]:
    """Latents on a side of any comparison."""
    query = (
        select(LatentSetMember.latent_id)
        .join(
            Comparison,
            (Comparison.target_set_id == LatentSetMember.latent_set_id)
            | (Comparison.reference_set_id == LatentSetMember.latent_set_id),
        )
        .distinct()
    )
    return set(session.execute(query).scalars())


def _members(session: Session, latent_set_id: int) -> list[_Dense]:
    query = (
        select(Latent.id, Latent.density)
        .join(LatentSetMember, LatentSetMember.latent_id == Latent.id)
        .where(LatentSetMember.latent_set_id == latent_set_id, Latent.density > 0)
    )
    return [_Dense(row.id, row.density) for row in session.execute(query)]


def _shared(session: Session, comparison: Comparison) -> list[_Dense]:
    """Firing latents of the sides' crosscoders whose decoder norms are about equal."""
    found: dict[int, _Dense] = {}
    for set_id in (comparison.target_set_id, comparison.reference_set_id):
        latent_set = session.get_one(LatentSet, set_id)
        query = (
            select(Latent.id, Latent.density)
            .join(LatentScaling, LatentScaling.latent_id == Latent.id)
            .where(
                Latent.crosscoder_id == latent_set.crosscoder_id,
                Latent.density > 0,
                Latent.n_documents > 0,
                LatentScaling.target_model_id == latent_set.target_model_id,
                LatentScaling.reference_model_id == latent_set.against_model_id,
                LatentScaling.delta_norm.between(*SHARED_NORM),
            )
        )
        found |= {row.id: _Dense(row.id, row.density) for row in session.execute(query)}
    return list(found.values())


def matched_sets(session: Session, latent_ids: Collection[int]) -> dict[int, int]:
    """Control latent -> latent set of the latent that it is matched with."""
    found: dict[int, int] = {}
    for part in chunks(latent_ids):
        query = (
            select(ControlLatent.latent_id, LatentSetMember.latent_set_id)
            .join(Comparison, Comparison.id == ControlLatent.comparison_id)
            .join(
                LatentSetMember,
                (LatentSetMember.latent_id == ControlLatent.matched_latent_id)
                & LatentSetMember.latent_set_id.in_(
                    [Comparison.target_set_id, Comparison.reference_set_id]
                ),
            )
            .where(ControlLatent.latent_id.in_(part))
            .order_by(ControlLatent.id)
        )
        found |= {row.latent_id: row.latent_set_id for row in session.execute(query)}
    return found
