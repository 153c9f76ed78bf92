"""Imported comparisons whose latents wait for a judge."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from labeler.store.latent_records import current_setting
from labeler.store.schema import EffectiveLabel, Judge
from labeler.store.study_comparisons import study_comparisons


@dataclass(frozen=True)
class ToJudge:
    """A comparison that a judge is to categorise; `words` say what that takes out of force."""

    id: int
    name: str
    words: str


def comparisons_to_judge(session: Session) -> list[ToJudge] | None:
    """Imported comparisons with a latent that nobody labelled, or that a judge categorised before.

    One whose imported labels are complete is left as it is. None where there is no comparison.
    """
    rows = study_comparisons(session, ()).present
    if not rows:
        return None
    found = []
    for row in rows:
        setting = current_setting(session, row.id)
        kind = "" if setting is None else session.get_one(Judge, setting.judge_id).endpoint_kind
        if kind == "import" and not _count(session, row.id, "unlabelled"):
            continue
        n_imported = _count(session, row.id, "assigned") + _count(session, row.id, "none")
        words = ""
        if kind == "import" and n_imported:
            words = (
                f"{n_imported} imported labels are not in force any more, v_judge_label keeps them"
            )
        found.append(ToJudge(row.id, row.name, words))
    return found


def _count(session: Session, comparison_id: int, outcome: str) -> int:
    query = select(func.count()).where(
        EffectiveLabel.comparison_id == comparison_id,
        EffectiveLabel.outcome == outcome,
        EffectiveLabel.review_event_id.is_(None),
    )
    return int(session.execute(query).scalar_one())
