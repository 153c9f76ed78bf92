"""Rows of answers to held-out prompts, of their classes, and of the change they show."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from labeler.store.schema import BehaviourAnswer, BehaviourLabel, CategoryBehaviour
from labeler.store.statements import chunks


@dataclass(frozen=True)
class AnswerRow:
    """An answer to be stored; the fields are those of the table."""

    answer_key: str
    model: str
    prompt_id: str
    sample: int
    prompt: str
    text: str | None
    is_finished: bool


@dataclass(frozen=True)
class ShownAnswer:
    """A stored answer with its class, as a report shows it."""

    prompt_id: str
    prompt: str
    model: str
    sample: int
    text: str | None
    category: str
    outcome: str
    classified_by: str
    reason: str | None


def stored_answers(session: Session, keys: Collection[str]) -> dict[str, BehaviourAnswer]:
    """The answers that are stored already, by key."""
    found: dict[str, BehaviourAnswer] = {}
    for part in chunks(keys):
        query = select(BehaviourAnswer).where(BehaviourAnswer.answer_key.in_(part))
        found |= {row.answer_key: row for row in session.execute(query).scalars()}
    return found


def add_answers(session: Session, run_id: int, rows: Sequence[AnswerRow]) -> None:
    """Store answers that are new."""
    known = stored_answers(session, [row.answer_key for row in rows])
    fresh = [vars(row) | {"run_id": run_id} for row in rows if row.answer_key not in known]
    if fresh:
        session.execute(insert(BehaviourAnswer), fresh)


def add_findings(
    session: Session, labels: Sequence[dict[str, Any]], changes: Sequence[dict[str, Any]]
) -> None:
    """Write a run's classes and changes, as values by column."""
    if labels:
        session.execute(insert(BehaviourLabel), list(labels))
    if changes:
        session.execute(insert(CategoryBehaviour), list(changes))


def newest_changes(session: Session, comparison_id: int) -> list[CategoryBehaviour]:
    """The changes of the newest run that has some of this comparison, in their order."""
    newest = (
        select(func.max(CategoryBehaviour.run_id))
        .where(CategoryBehaviour.comparison_id == comparison_id)
        .scalar_subquery()
    )
    query = (
        select(CategoryBehaviour)
        .where(CategoryBehaviour.comparison_id == comparison_id, CategoryBehaviour.run_id == newest)
        .order_by(CategoryBehaviour.id)
    )
    return list(session.execute(query).scalars())


def classified_answers(session: Session, run_id: int, models: Collection[str]) -> list[ShownAnswer]:
    """The classified answers of some models in one run, prompt by prompt."""
    query = (
        select(
            BehaviourAnswer.prompt_id,
            BehaviourAnswer.prompt,
            BehaviourAnswer.model,
            BehaviourAnswer.sample,
            BehaviourAnswer.text,
            BehaviourLabel.category,
            BehaviourLabel.outcome,
            BehaviourLabel.classified_by,
            BehaviourLabel.reason,
        )
        .join(BehaviourLabel, BehaviourLabel.behaviour_answer_id == BehaviourAnswer.id)
        .where(BehaviourLabel.run_id == run_id, BehaviourAnswer.model.in_(models))
        .order_by(BehaviourLabel.id)
    )
    return [ShownAnswer(**row) for row in session.execute(query).mappings()]
