"""Explanations of latents: the newest by a judge, and the one that a judge works with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from labeler.store.helpers import chunks, newest_explanation_ids
from labeler.store.outcomes import BY_NAME, OF_ONE_REQUEST, failed_outcome
from labeler.store.schema import Explanation, Judge, JudgeCall


def newest_explanations(
    session: Session, latent_ids: Iterable[int], judge_id: int
) -> dict[int, Explanation]:
    """The newest explanation of each latent by a judge, controls left out."""
    return _newest(session, latent_ids, Explanation.judge_id == judge_id)


def explanations_for(
    session: Session, latent_ids: Iterable[int], judge_id: int
) -> dict[int, Explanation]:
    """The newest explanation of each latent by this judge, else the newest one that was imported.

    Controls are left out, and so are latents without either.
    """
    latents = list(latent_ids)
    own = newest_explanations(session, latents, judge_id)
    imports = select(Judge.id).where(Judge.endpoint_kind == "import")
    others = [latent_id for latent_id in latents if latent_id not in own]
    return own | _newest(session, others, Explanation.judge_id.in_(imports))


def _newest(
    session: Session, latent_ids: Iterable[int], by: ColumnElement[bool]
) -> dict[int, Explanation]:
    found: dict[int, Explanation] = {}
    for part in chunks(latent_ids):
        newest = newest_explanation_ids(
            by, Explanation.latent_id.in_(part), Explanation.is_control.is_(False)
        )
        rows = session.execute(select(Explanation).where(Explanation.id.in_(newest))).scalars()
        found |= {row.latent_id: row for row in rows}
    return found


def explanation_for(session: Session, latent_id: int, judge_id: int) -> Explanation | None:
    """The explanation of one latent that a judge works with."""
    return explanations_for(session, [latent_id], judge_id).get(latent_id)


def no_explanation(outcome: str, error: str | None) -> str:
    """What stands in the place of an explanation whose request is too long, or was refused."""
    return f"No explanation: {BY_NAME[outcome].short}: {error or 'no words'}"


def failed_explanations(session: Session, explanations: Iterable[Explanation]) -> dict[int, str]:
    """The outcome of each explanation that stands for a request without an answer, by its id."""
    calls: dict[int, list[int]] = defaultdict(list)
    for row in explanations:
        if not row.interpretable and row.judge_call_id is not None:
            calls[row.judge_call_id].append(row.id)
    found: dict[int, str] = {}
    for part in chunks(calls):
        query = select(JudgeCall.id, JudgeCall.status).where(
            JudgeCall.id.in_(part), JudgeCall.status.in_(OF_ONE_REQUEST)
        )
        for call_id, status in session.execute(query):
            found |= dict.fromkeys(calls[call_id], failed_outcome(status))
    return found
