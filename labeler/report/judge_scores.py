"""What a report says of the judge: scores own against shuffled, and base rates of the controls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from labeler.labeling.score_statistics import paired_difference
from labeler.report.model import ControlRate, ScoreRow
from labeler.store.helpers import newest_explanation_ids
from labeler.store.schema import Comparison, Explanation, ExplanationScore, LatentSetMember

BOTH = "both"
_RATES = text(
    "SELECT category, control_count, control_total FROM v_control_category"
    " WHERE comparison = :comparison ORDER BY level, category"
)


@dataclass(frozen=True)
class _Scored:
    """The newest score of one explanation."""

    side: str
    latent_id: int
    method: str
    is_shuffled: bool
    balanced_accuracy: float | None
    n_asked: int
    n_parsed: int


def read_scores(session: Session, comparison: Comparison, judge_id: int) -> tuple[ScoreRow, ...]:
    """Scores of a judge's explanations by method, for each side and for both together.

    Means are over latents that have both scores, own and shuffled, so that they compare like with
    like; where nothing was shuffled they are over all latents with a score.
    """
    scored = _scored(session, comparison, judge_id)
    methods = sorted({row.method for row in scored})
    rows = []
    for method in methods:
        of_method = [row for row in scored if row.method == method]
        for side in ("target", "reference", BOTH):
            chosen = [row for row in of_method if side in (row.side, BOTH)]
            if chosen:
                rows.append(_row(side, method, chosen))
    return tuple(rows)


def read_control_rates(session: Session, comparison: str) -> tuple[ControlRate, ...]:
    """How many of the control latents have each category; empty where none is labelled."""
    found = session.execute(_RATES, {"comparison": comparison})
    return tuple(ControlRate(row.category, row.control_count, row.control_total) for row in found)


def _row(side: str, method: str, rows: Sequence[_Scored]) -> ScoreRow:
    # A latent of both sides has one score, whichever side it is read from.
    scored = {(row.latent_id, row.is_shuffled): row for row in rows}.values()
    own = {row.latent_id: row.balanced_accuracy for row in scored if not row.is_shuffled}
    shuffled = {row.latent_id: row.balanced_accuracy for row in scored if row.is_shuffled}
    pairs = [
        (value, control)
        for latent_id, value in own.items()
        if value is not None and (control := shuffled.get(latent_id)) is not None
    ]
    found = paired_difference([own for own, _ in pairs], [control for _, control in pairs])
    alone = [value for value in own.values() if value is not None]
    mean = found.own if pairs or not alone else sum(alone) / len(alone)
    return ScoreRow(
        side=side,
        method=method,
        n_latents=found.n or len(alone),
        own=mean,
        shuffled=found.shuffled,
        difference=found.difference,
        difference_low=found.low,
        difference_high=found.high,
        n_asked=sum(row.n_asked for row in scored),
        n_parsed=sum(row.n_parsed for row in scored),
    )


def _scored(session: Session, comparison: Comparison, judge_id: int) -> list[_Scored]:
    newest_score = select(func.max(ExplanationScore.id)).group_by(
        ExplanationScore.explanation_id, ExplanationScore.judge_id, ExplanationScore.method
    )
    sides: dict[int, list[str]] = defaultdict(list)
    for side, set_id in (
        ("target", comparison.target_set_id),
        ("reference", comparison.reference_set_id),
    ):
        members = select(LatentSetMember.latent_id).where(LatentSetMember.latent_set_id == set_id)
        for latent_id in session.execute(members).scalars():
            sides[latent_id].append(side)
    query = (
        select(ExplanationScore, Explanation.latent_id, Explanation.is_control)
        .join(Explanation, Explanation.id == ExplanationScore.explanation_id)
        .where(
            ExplanationScore.id.in_(newest_score),
            ExplanationScore.judge_id == judge_id,
            Explanation.id.in_(newest_explanation_ids(Explanation.judge_id == judge_id)),
        )
    )
    return [
        _Scored(
            side,
            latent_id,
            score.method,
            is_control,
            score.balanced_accuracy,
            score.n_asked,
            score.n_parsed,
        )
        for score, latent_id, is_control in session.execute(query)
        for side in sides[latent_id]
    ]
