"""Rows of what latents and sets of latents do to the output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import delete, insert
from sqlalchemy.orm import Session

from labeler.store.schema import CategoryEffect, LatentEffect
from labeler.store.statements import chunks

ALL_LATENTS = "all latents"
ALL_LATENTS_AND_CONSTANT = "all, means and biases"
"""Names of the sets of the whole dictionary, as `crosscoder.effects` calls them."""


def replace_latent_effects(
    session: Session,
    run_id: int,
    target_model_id: int,
    reference_model_id: int,
    rows: Mapping[int, Mapping[str, Any]],
) -> None:
    """Store the effects of latents, by latent_id, in place of those of earlier runs."""
    pair = {"target_model_id": target_model_id, "reference_model_id": reference_model_id}
    for ids in chunks(rows):
        session.execute(
            delete(LatentEffect).where(
                LatentEffect.latent_id.in_(ids),
                LatentEffect.target_model_id == target_model_id,
                LatentEffect.reference_model_id == reference_model_id,
            )
        )
    if rows:
        session.execute(
            insert(LatentEffect),
            [{**row, **pair, "latent_id": each, "run_id": run_id} for each, row in rows.items()],
        )


def replace_category_effects(
    session: Session, run_id: int, comparison_id: int, rows: Iterable[Mapping[str, Any]]
) -> None:
    """Store all effects of a comparison, in place of those of earlier runs."""
    session.execute(delete(CategoryEffect).where(CategoryEffect.comparison_id == comparison_id))
    shared = {"run_id": run_id, "comparison_id": comparison_id}
    session.add_all(CategoryEffect(**row, **shared) for row in rows)
