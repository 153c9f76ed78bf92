"""Writing the scores of another tool, counted anew by this one's formulas."""

from __future__ import annotations

from sqlalchemy.orm import Session

from labeler.exchange.records import ExchangeScore
from labeler.scoring_math import score_of_answers
from labeler.store.schema import Explanation, ExplanationScore
from labeler.store.score_records import add_score

IN_FILE = "in the imported file"


def add_imported_score(
    session: Session, run_id: int, explanation: Explanation, score: ExchangeScore
) -> bool:
    """Write a score of an imported explanation, unless the newest one says the same.

    It stands under the explanation's own judge: who was asked, the folder does not say.
    """
    counted = score_of_answers(score.answers, where=IN_FILE)
    row = ExplanationScore(
        run_id=run_id,
        explanation_id=explanation.id,
        judge_id=explanation.judge_id,
        method=score.method,
        n_parsed=counted.n_parsed,
        **vars(counted),
    )
    return add_score(session, row, ())
