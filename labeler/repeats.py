"""Further answers to the same categorisation, which measure how sure the first one is."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from labeler.judge.base import CategoryOption
from labeler.store.schema import LabelSample


@dataclass(frozen=True)
class SampleRow:
    """One further answer."""

    run_id: int
    latent_id: int
    judge_id: int
    taxonomy_version_id: int
    explanation_id: int
    judge_call_id: int
    sample: int
    outcome: str
    category_id: int | None


def shuffled_options(
    options: Sequence[CategoryOption], seed: int, latent_id: int, sample: int
) -> tuple[CategoryOption, ...]:
    """The categories in an order of this sample; sample 0 has that of the taxonomy."""
    if sample == 0:
        return tuple(options)
    order = list(options)
    random.Random(f"{seed} {latent_id} {sample}").shuffle(order)
    return tuple(order)


def add_sample(session: Session, row: SampleRow) -> bool:
    """Write an answer unless it is there; returns whether it was new."""
    key = {
        "latent_id": row.latent_id,
        "judge_id": row.judge_id,
        "taxonomy_version_id": row.taxonomy_version_id,
        "explanation_id": row.explanation_id,
        "sample": row.sample,
        "judge_call_id": row.judge_call_id,
    }
    if session.execute(select(LabelSample.id).filter_by(**key)).first() is not None:
        return False
    session.add(
        LabelSample(**key, run_id=row.run_id, outcome=row.outcome, category_id=row.category_id)
    )
    session.flush()
    return True
