"""A study of 150 latents a side whose judge errs in a known way, with blind reviews."""

from __future__ import annotations

from collections.abc import Mapping

from report_studies import build_imported
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from labeler.store.engine import write_session
from labeler.store.reviews import Decision, record_decision
from labeler.store.schema import (
    Category,
    Comparison,
    JudgeLabel,
    JudgeLabelCategory,
    LatentSet,
    LatentSetMember,
    TaxonomyVersion,
)

JUDGED: Mapping[str, tuple[int, int]] = {
    "safety": (60, 30),
    "mathematics": (40, 60),
    "none": (50, 60),
}
"""What the judge says: 150 latents a side."""


def build_reviewed(engine: Engine, n_blind: int = 75, n_manual: int = 0) -> None:
    """Review every second latent of each side blind, then some with the label in view.

    The reviewers move every third of the judge's safety latents to none and agree on the rest.
    """
    build_imported(engine, JUDGED)
    with write_session(engine) as session:
        for latent_ids in _sides(session):
            chosen = latent_ids[::2][:n_blind]
            for place, latent_id in enumerate(latent_ids):
                if latent_id in chosen:
                    _decide(session, latent_id, place, True)
            for place, latent_id in list(enumerate(latent_ids))[1::2][:n_manual]:
                _decide(session, latent_id, place, False)


def _sides(session: Session) -> list[list[int]]:
    comparison = session.scalars(select(Comparison)).one()
    sets = [
        session.get_one(LatentSet, key)
        for key in (comparison.target_set_id, comparison.reference_set_id)
    ]
    return [
        list(
            session.scalars(
                select(LatentSetMember.latent_id)
                .where(LatentSetMember.latent_set_id == latent_set.id)
                .order_by(LatentSetMember.latent_id)
            )
        )
        for latent_set in sets
    ]


def _decide(session: Session, latent_id: int, place: int, blind: bool) -> None:
    version = session.scalars(select(TaxonomyVersion)).one()
    moved = place % 3 == 0
    slug = _judged_slug(session, latent_id)
    to_none = slug is None or (slug == "safety" and moved)
    record_decision(
        session,
        Decision(
            latent_id=latent_id,
            taxonomy_version_id=version.id,
            reviewer="ann" if blind else "ben",
            base_revision=0,
            action="none" if to_none else "set",
            categories=() if to_none or slug is None else (slug,),
            was_blind=blind,
            selection="random" if blind else "manual",
            inclusion_prob=0.5 if blind else None,
        ),
    )


def _judged_slug(session: Session, latent_id: int) -> str | None:
    return session.scalar(
        select(Category.slug)
        .join(JudgeLabelCategory, JudgeLabelCategory.category_id == Category.id)
        .join(JudgeLabel, JudgeLabel.id == JudgeLabelCategory.judge_label_id)
        .where(JudgeLabel.latent_id == latent_id)
    )
