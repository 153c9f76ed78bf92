"""Null runs of a comparison: written once, the newest of each kind read."""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from labeler import __version__
from labeler.report.beside import NullChange, NullKind, NullRun
from labeler.store.schema import NullResult, NullResultChange


def add_null_run(
    session: Session, comparison_id: int, run: NullRun, settings: dict[str, Any]
) -> None:
    """Store one null run with the settings it came from."""
    row = NullResult(
        comparison_id=comparison_id,
        code_version=__version__,
        kind=run.kind,
        title=run.title,
        settings=settings,
        n_draws=run.n_draws,
        n_called=run.n_called,
        n_tested=run.n_tested,
    )
    session.add(row)
    session.flush()
    session.add_all(
        NullResultChange(
            null_result_id=row.id,
            category=change.category,
            low=change.low,
            high=change.high,
            share_as_far=change.share_as_far,
        )
        for change in run.changes
    )


def read_null_runs(session: Session, comparison_id: int) -> tuple[NullRun, ...]:
    """The newest run of each kind."""
    newest = (
        select(func.max(NullResult.id))
        .where(NullResult.comparison_id == comparison_id)
        .group_by(NullResult.kind)
    )
    rows = session.execute(
        select(NullResult).where(NullResult.id.in_(newest)).order_by(NullResult.kind)
    ).scalars()
    return tuple(
        NullRun(
            kind=cast(NullKind, row.kind),
            title=row.title,
            n_draws=row.n_draws,
            n_called=row.n_called,
            n_tested=row.n_tested,
            changes=_changes(session, row.id),
        )
        for row in rows
    )


def _changes(session: Session, null_result_id: int) -> tuple[NullChange, ...]:
    rows = session.execute(
        select(NullResultChange)
        .where(NullResultChange.null_result_id == null_result_id)
        .order_by(NullResultChange.id)
    ).scalars()
    return tuple(NullChange(row.category, row.low, row.high, row.share_as_far) for row in rows)
