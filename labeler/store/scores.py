"""Writes scores of explanations, and shuffled explanations as controls."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from labeler.store.judging import add_explanation
from labeler.store.schema import Explanation, ExplanationScore, ScoreCall, ShuffledExplanation


def add_score(session: Session, score: ExplanationScore, call_ids: Collection[int]) -> bool:
    """Write a score with the calls it was counted from, unless the newest one is equal."""
    newest = session.execute(
        select(ExplanationScore)
        .where(
            ExplanationScore.explanation_id == score.explanation_id,
            ExplanationScore.judge_id == score.judge_id,
            ExplanationScore.method == score.method,
        )
        .order_by(ExplanationScore.id.desc())
        .limit(1)
    ).scalar_one_or_none()
    if newest is not None and _says(newest, score) and _calls_of(session, newest) == set(call_ids):
        return False
    session.add(score)
    session.flush()
    if call_ids:
        session.execute(
            insert(ScoreCall),
            [
                {"explanation_score_id": score.id, "judge_call_id": call_id}
                for call_id in sorted(set(call_ids))
            ],
        )
    return True


def shuffled_explanation(
    session: Session, run_id: int, latent_id: int, source: Explanation
) -> Explanation:
    """The control explanation with the text of `source` for another latent."""
    known = session.execute(
        select(Explanation)
        .join(ShuffledExplanation, ShuffledExplanation.explanation_id == Explanation.id)
        .where(
            Explanation.latent_id == latent_id,
            ShuffledExplanation.source_explanation_id == source.id,
        )
        .limit(1)
    ).scalar_one_or_none()
    if known is not None:
        return known
    row = add_explanation(session, run_id, latent_id, source.judge_id, source.text, is_control=True)
    session.add(ShuffledExplanation(explanation_id=row.id, source_explanation_id=source.id))
    session.flush()
    return row


def _says(newest: ExplanationScore, score: ExplanationScore) -> bool:
    """Whether two scores are equal apart from time and run."""
    columns = set(ExplanationScore.__table__.columns.keys()) - {"id", "run_id", "created_at"}
    return all(getattr(newest, name) == getattr(score, name) for name in columns)


def _calls_of(session: Session, score: ExplanationScore) -> set[int]:
    query = select(ScoreCall.judge_call_id).where(ScoreCall.explanation_score_id == score.id)
    return set(session.execute(query).scalars())
