"""Random samples for blind review: drawn once, stored, and never changed.

Each draw is a simple random sample without replacement of one side of a comparison, so every
latent of the side has the inclusion probability n_drawn / n_population (Horvitz and Thompson,
1952). A draw with the same seed and a larger size contains the smaller one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from labeler.errors import UsageError
from labeler.store.schema import (
    AuditDraw,
    AuditMember,
    Comparison,
    Crosscoder,
    Latent,
    LatentSetMember,
)


@dataclass(frozen=True)
class AuditPlace:
    """Where a latent stands in the draw in force."""

    side: str
    position: int
    inclusion_prob: float


def draw_audit(
    session: Session, comparison_id: int, side: str, size: int, seed: int, drawn_by: str
) -> AuditDraw:
    """Draw `size` latents of a side (all of them, where it has fewer) and put the draw in force.

    UsageError for a size below 1, an unknown side, or a side without latents.
    """
    import numpy as np

    if size < 1:
        raise UsageError(f"audit size: {size} is below 1")
    if not 0 <= seed < 2**31:
        raise UsageError(f"audit seed: {seed} does not lie between 0 and {2**31 - 1}")
    population = _population(session, comparison_id, side)
    if not population:
        raise UsageError(f"audit: the {side} side has no latents to draw from")
    order = np.random.default_rng(seed).permutation(len(population))
    drawn = [population[index] for index in order[:size]]
    draw = AuditDraw(
        comparison_id=comparison_id,
        side=side,
        seed=seed,
        n_drawn=len(drawn),
        n_population=len(population),
        drawn_by=drawn_by,
    )
    session.add(draw)
    session.flush()
    session.execute(
        insert(AuditMember),
        [
            {"audit_draw_id": draw.id, "latent_id": latent_id, "position": position}
            for position, latent_id in enumerate(drawn, start=1)
        ],
    )
    return draw


def draws_in_force(session: Session, comparison_id: int) -> dict[str, AuditDraw]:
    """The newest draw of each side that has one."""
    newest = (
        select(func.max(AuditDraw.id))
        .where(AuditDraw.comparison_id == comparison_id)
        .group_by(AuditDraw.side)
    )
    draws = session.execute(select(AuditDraw).where(AuditDraw.id.in_(newest))).scalars()
    return {draw.side: draw for draw in draws}


def audit_places(session: Session, comparison_id: int) -> Mapping[int, AuditPlace]:
    """Every latent of the draws in force, by its id."""
    places: dict[int, AuditPlace] = {}
    for draw in draws_in_force(session, comparison_id).values():
        members = session.execute(
            select(AuditMember.latent_id, AuditMember.position).where(
                AuditMember.audit_draw_id == draw.id
            )
        )
        probability = draw.n_drawn / draw.n_population
        for latent_id, position in members:
            places[latent_id] = AuditPlace(draw.side, position, probability)
    return places


def _population(session: Session, comparison_id: int, side: str) -> list[int]:
    """Latent ids of a side, in an order that the database does not choose."""
    if side not in ("target", "reference"):
        raise UsageError(f"audit side: {side!r} is neither target nor reference")
    comparison = session.get_one(Comparison, comparison_id)
    latent_set = comparison.target_set_id if side == "target" else comparison.reference_set_id
    query = (
        select(LatentSetMember.latent_id)
        .join(Latent, Latent.id == LatentSetMember.latent_id)
        .join(Crosscoder, Crosscoder.id == Latent.crosscoder_id)
        .where(LatentSetMember.latent_set_id == latent_set)
        .order_by(Crosscoder.id, Latent.latent_index)
    )
    return list(session.execute(query).scalars())
