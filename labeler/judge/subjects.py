"""Latents as a judge sees them, read from the database."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session, aliased

from labeler.controls import matched_sets
from labeler.judge.base import CategoryOption, EvidenceWindow, LatentFacts, LatentSubject
from labeler.store.evidence_records import evidence_of
from labeler.store.helpers import chunks
from labeler.store.schema import (
    Category,
    Comparison,
    Crosscoder,
    Evidence,
    Latent,
    LatentScaling,
    LatentSet,
    LatentSetMember,
    SubjectModel,
)


def load_subject(session: Session, latent_id: int, split: str = "explain") -> LatentSubject:
    """One latent with its windows of one half and what the crosscoder says of it."""
    latent = session.get_one(Latent, latent_id)
    crosscoder = session.get_one(Crosscoder, latent.crosscoder_id)
    windows = tuple(_window(row) for row in evidence_of(session, latent_id, split))
    return LatentSubject(
        latent_id=latent.id,
        crosscoder=crosscoder.name,
        latent_index=latent.latent_index,
        windows=windows,
        facts=_facts(session, latent),
    )


def latents_of(session: Session, comparison_ids: Collection[int]) -> list[int]:
    """Latents on either side of the comparisons, by rank within their set, each once."""
    ids: dict[int, None] = {}
    for part in chunks(sorted(set(comparison_ids))):
        query = (
            select(LatentSetMember.latent_id)
            .join(
                Comparison,
                or_(
                    Comparison.target_set_id == LatentSetMember.latent_set_id,
                    Comparison.reference_set_id == LatentSetMember.latent_set_id,
                ),
            )
            .where(Comparison.id.in_(part))
            .order_by(
                LatentSetMember.latent_set_id, LatentSetMember.rank, LatentSetMember.latent_id
            )
        )
        ids.update(dict.fromkeys(session.execute(query).scalars()))
    return list(ids)


def options_of(session: Session, taxonomy_version_id: int) -> tuple[CategoryOption, ...]:
    """Leaves of a taxonomy version in their order."""
    rows = session.execute(
        select(Category)
        .where(Category.taxonomy_version_id == taxonomy_version_id)
        .order_by(Category.position, Category.id)
    ).scalars()
    categories = list(rows)
    by_id = {category.id: category for category in categories}
    parents = {category.parent_id for category in categories}
    return tuple(
        CategoryOption(
            slug=category.slug,
            name=category.name,
            parent=by_id[category.parent_id].slug if category.parent_id is not None else None,
            definition=category.definition,
            include_when=category.include_when,
            exclude_when=category.exclude_when,
            prototypes=tuple(category.prototypes),
        )
        for category in categories
        if category.id not in parents
    )


def _window(row: Evidence) -> EvidenceWindow:
    return EvidenceWindow(
        kind=row.kind,
        split=row.split,
        tokens=tuple(row.tokens),
        roles=tuple(row.roles),
        activations=tuple(float(value) for value in row.activations),
        quantile=row.quantile,
    )


def _facts(session: Session, latent: Latent) -> LatentFacts:
    """Facts for the pair of models of the latent's set, or of the set that a control matches."""
    target, against = aliased(SubjectModel), aliased(SubjectModel)
    row = session.execute(
        select(target.name, against.name, LatentScaling)
        .select_from(LatentSet)
        .join(target, target.id == LatentSet.target_model_id)
        .join(against, against.id == LatentSet.against_model_id)
        .outerjoin(
            LatentScaling,
            (LatentScaling.latent_id == latent.id)
            & (LatentScaling.target_model_id == LatentSet.target_model_id)
            & (LatentScaling.reference_model_id == LatentSet.against_model_id),
        )
        .where(LatentSet.id == _set_of(session, latent.id))
    ).first()
    names, scaling = ((row[0], row[1]), row[2]) if row is not None else ((None, None), None)
    return LatentFacts(
        target_model=names[0],
        reference_model=names[1],
        delta_norm=scaling.delta_norm if scaling is not None else None,
        nu_error=scaling.nu_error if scaling is not None else None,
        nu_reconstruction=scaling.nu_reconstruction if scaling is not None else None,
        density=latent.density,
        n_documents=latent.n_documents,
    )


def _set_of(session: Session, latent_id: int) -> int | None:
    """The newest latent set that holds the latent, else that of the latent it is matched with."""
    newest = select(func.max(LatentSetMember.latent_set_id)).where(
        LatentSetMember.latent_id == latent_id
    )
    found = session.execute(newest).scalar_one()
    return found if found is not None else matched_sets(session, [latent_id]).get(latent_id)
