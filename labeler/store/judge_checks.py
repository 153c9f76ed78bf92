"""Rows of what the check of a judge measured."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from labeler.store.schema import JudgeCheck


def newest_judge_check(session: Session, judge_id: int) -> JudgeCheck | None:
    """The newest check of a judge; None where it was never checked."""
    query = select(JudgeCheck).where(JudgeCheck.judge_id == judge_id).order_by(JudgeCheck.id.desc())
    return session.scalars(query.limit(1)).first()


def refusal_of(session: Session, judge_id: int) -> str | None:
    """One line where the newest check refused a judge."""
    check = newest_judge_check(session, judge_id)
    if check is None or check.verdict != "refused":
        return None
    return f"`difflens judge check` refused this judge: {check.words}"
