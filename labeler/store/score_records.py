"""Writing scores of explanations, and the explanations that are shuffled."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from labeler.store.judging_records import add_explanation
from labeler.store.schema import Explanation, ExplanationScore, ScoreCall, ShuffledExplanation


@dataclass(frozen=True)
class ScoreRow:
    """One score; the balanced accuracy is None exactly where `reason` says why."""

    run_id: int
    explanation_id: int
    judge_id: int
    method: str
    n_asked: int
    n_parsed: int
    n_positive: int
    n_negative: int
    n_true_positive: int
    n_true_negative: int
    balanced_accuracy: float | None
    ci_low: float | None
    ci_high: float | None
    reason: str | None


def add_score(session: Session, row: ScoreRow, call_ids: Collection[int]) -> bool:
    """Write a score with the calls it was counted from, unless the newest one says the same."""
    newest = session.execute(
        select(ExplanationScore)
        .where(
            ExplanationScore.explanation_id == row.explanation_id,
            ExplanationScore.judge_id == row.judge_id,
            ExplanationScore.method == row.method,
        )
        .order_by(ExplanationScore.id.desc())
        .limit(1)
    ).scalar_one_or_none()
    if newest is not None and _says(newest, row) and _calls_of(session, newest) == set(call_ids):
        return False
    score = ExplanationScore(**asdict(row))
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
    """The control explanation that puts the words of `source` under another latent."""
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


def _says(newest: ExplanationScore, row: ScoreRow) -> bool:
    return all(
        getattr(newest, name) == value for name, value in asdict(row).items() if name != "run_id"
    )


def _calls_of(session: Session, score: ExplanationScore) -> set[int]:
    query = select(ScoreCall.judge_call_id).where(ScoreCall.explanation_score_id == score.id)
    return set(session.execute(query).scalars())
