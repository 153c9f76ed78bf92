"""The latents of a comparison with what counting, weighing and sweeping need of them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from crosscoder.config import SIDES, SideName
from crosscoder.isolation_rules import Specificity
from labeler.report.comparisons import ActiveComparison
from labeler.store.outcomes import EFFECTIVE_OUTCOMES, LABELLED
from labeler.store.schema import (
    Category,
    EffectiveLabel,
    EffectiveLabelCategory,
    Latent,
    LatentScaling,
    LatentSetMember,
)

_OUTCOMES = {
    "labelled": frozenset(LABELLED),
    "assigned": frozenset({"assigned"}),
    "isolated": frozenset(EFFECTIVE_OUTCOMES),
}


@dataclass(frozen=True)
class Member:
    """One latent of one side with its active label."""

    latent_id: int
    side: SideName
    outcome: str
    categories: tuple[frozenset[str], ...]
    """By rank, the primary one first: each with its parent."""
    density: float | None
    mean_activation: float | None
    specificity: Specificity = field(default_factory=Specificity)

    def is_in(self, denominator: str) -> bool:
        """Whether the latent is in a denominator: labelled, assigned or isolated."""
        return self.outcome in _OUTCOMES[denominator]

    def counted_for(self, counting: str) -> frozenset[str]:
        """Categories and parents it counts for: of its primary category, or of any."""
        chosen = self.categories[:1] if counting == "primary" else self.categories
        return frozenset().union(*chosen)


@dataclass(frozen=True)
class Members:
    """The latents of both sides."""

    target: tuple[Member, ...]
    reference: tuple[Member, ...]

    def of(self, side: SideName) -> tuple[Member, ...]:
        """The latents of a side."""
        return self.target if side == "target" else self.reference


def read_members(session: Session, facts: ActiveComparison) -> Members:
    """Every latent of both sides, in the order of their keys."""
    target, reference = (_side(session, facts, side) for side in SIDES)
    return Members(target, reference)


def _side(session: Session, facts: ActiveComparison, side: SideName) -> tuple[Member, ...]:
    categories = _categories(session, facts, side)
    specificity = _specificity(session, facts, side)
    rows = session.execute(
        select(
            EffectiveLabel.latent_id,
            EffectiveLabel.outcome,
            Latent.density,
            Latent.mean_activation,
        )
        .join(Latent, Latent.id == EffectiveLabel.latent_id)
        .where(EffectiveLabel.comparison_id == facts.comparison.id, EffectiveLabel.side == side)
        .order_by(EffectiveLabel.latent_id)
    )
    return tuple(
        Member(
            latent_id=row.latent_id,
            side=side,
            outcome=row.outcome,
            categories=tuple(categories[row.latent_id]),
            density=row.density,
            mean_activation=row.mean_activation,
            specificity=specificity.get(row.latent_id, Specificity()),
        )
        for row in rows
    )


def _categories(
    session: Session, facts: ActiveComparison, side: SideName
) -> dict[int, list[frozenset[str]]]:
    parent = aliased(Category)
    rows = session.execute(
        select(EffectiveLabelCategory.latent_id, Category.slug, parent.slug.label("parent"))
        .join(Category, Category.id == EffectiveLabelCategory.category_id)
        .outerjoin(parent, parent.id == Category.parent_id)
        .where(
            EffectiveLabelCategory.comparison_id == facts.comparison.id,
            EffectiveLabelCategory.side == side,
        )
        .order_by(EffectiveLabelCategory.latent_id, EffectiveLabelCategory.rank)
    )
    found: dict[int, list[frozenset[str]]] = defaultdict(list)
    for row in rows:
        found[row.latent_id].append(frozenset({row.slug} | ({row.parent} - {None})))
    return found


def _specificity(
    session: Session, facts: ActiveComparison, side: SideName
) -> dict[int, Specificity]:
    latent_set = facts.latent_set(side)
    rows = session.execute(
        select(LatentSetMember.latent_id, LatentSetMember.rank, LatentScaling)
        .outerjoin(
            LatentScaling,
            (LatentScaling.latent_id == LatentSetMember.latent_id)
            & (LatentScaling.target_model_id == latent_set.target_model_id)
            & (LatentScaling.reference_model_id == latent_set.against_model_id),
        )
        .where(LatentSetMember.latent_set_id == latent_set.id)
    )
    return {
        latent_id: Specificity(
            rank=rank,
            nu_error=scaling.nu_error if scaling else None,
            nu_error_high=scaling.nu_error_high if scaling else None,
            nu_reconstruction=scaling.nu_reconstruction if scaling else None,
            nu_reconstruction_high=scaling.nu_reconstruction_high if scaling else None,
        )
        for latent_id, rank, scaling in rows
    }
