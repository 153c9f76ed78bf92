"""Rows of what latents and sets of latents do to the output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import delete, insert, text
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


EFFECT_WEIGHT = """
effect_weight AS (
  SELECT e.latent_id, avg(abs(e.attribution)) AS weight
  FROM comparison AS c
  JOIN latent_set AS s ON s.id IN (c.target_set_id, c.reference_set_id)
  JOIN latent_effect AS e
    ON (e.target_model_id = s.target_model_id AND e.reference_model_id = s.against_model_id)
    OR (e.target_model_id = s.against_model_id AND e.reference_model_id = s.target_model_id)
  WHERE c.id = :comparison AND e.attribution IS NOT NULL
  GROUP BY e.latent_id
)"""
"""Common table expression: mean |attribution| of the latents that were measured for a comparison,
over both directions of its pairs of models, so that it is the same on both sides."""


def effect_weights(session: Session, comparison_id: int) -> dict[int, float] | None:
    """The weight of every measured latent by latent_id; None where nothing was measured.

    A latent that is missing fires in none of the documents read: it weighs nothing.
    """
    query = text(f"WITH {EFFECT_WEIGHT} SELECT latent_id, weight FROM effect_weight")
    rows = session.execute(query, {"comparison": comparison_id})
    return {row.latent_id: row.weight for row in rows} or None
