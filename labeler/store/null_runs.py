"""Stores null runs of a comparison, and reads the newest of each kind."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from labeler import __version__
from labeler.store.schema import Comparison, LatentSet, NullResult, NullResultChange, Run

NullKind = Literal["seed", "permuted", "noise"]
"""`seed`: crosscoders of the same models with other seeds; `permuted`: sides assigned at random;
`noise`: a model against a noisy copy of itself, which counts latents instead of verdicts."""


@dataclass(frozen=True)
class NullChange:
    """Changes of one category under the null, where nothing differs."""

    category: str
    low: float | None
    """2.5% quantile of the percentage change over the draws; None = undefined."""
    high: float | None
    """97.5% quantile, percent; None next to a `low` = infinite."""
    share_as_far: float | None
    """Share of the draws whose change lies at least as far from zero as the result's."""


@dataclass(frozen=True)
class NullRun:
    """One kind of null run of a comparison."""

    kind: NullKind
    title: str
    """Description of the draws."""
    n_draws: int
    n_called: int
    """Verdicts `up` or `down` over all draws and categories, every one of them false."""
    n_tested: int
    """Categories tested over all draws."""
    changes: tuple[NullChange, ...] = ()
    run_id: int | None = None


def add_null_run(
    session: Session, comparison_id: int, run: NullRun, settings: dict[str, Any]
) -> None:
    """Store one null run with the settings it came from."""
    row = NullResult(
        comparison_id=comparison_id,
        code_version=__version__,
        settings=settings,
        **{name: getattr(run, name) for name in _COLUMNS},
    )
    session.add(row)
    session.flush()
    session.add_all(
        NullResultChange(null_result_id=row.id, **vars(change)) for change in run.changes
    )


_COLUMNS = ("kind", "title", "n_draws", "n_called", "n_tested")
"""Columns that a null run and its row share."""


def read_null_runs(
    session: Session, comparison: Comparison, denominator: str = "labelled", test: str = "fisher"
) -> tuple[NullRun, ...]:
    """The newest run of each kind that is valid for the comparison as it is now.

    A run from before the current isolation has other latents, and one with another denominator or
    test has other verdicts. Such runs stay in the database but not in a report.
    """
    query = (
        select(NullResult)
        .where(
            NullResult.comparison_id == comparison.id,
            NullResult.computed_at >= _isolated_at(session, comparison),
        )
        .order_by(NullResult.id.desc())
    )
    newest: dict[str, NullResult] = {}
    for row in session.execute(query).scalars():
        counted = row.settings.get("denominator", denominator), row.settings.get("test", "fisher")
        if row.kind == "noise" or counted == (denominator, test):
            newest.setdefault(row.kind, row)
    rows = [newest[kind] for kind in sorted(newest)]
    return tuple(
        NullRun(
            **{name: getattr(row, name) for name in _COLUMNS}, changes=_changes(session, row.id)
        )
        for row in rows
    )


def _isolated_at(session: Session, comparison: Comparison) -> datetime:
    """When the run began that made the newer of the two latent sets."""
    sets = (comparison.target_set_id, comparison.reference_set_id)
    query = select(Run).join(LatentSet, LatentSet.run_id == Run.id).where(LatentSet.id.in_(sets))
    return max(run.started_at for run in session.execute(query).scalars())


def _changes(session: Session, null_result_id: int) -> tuple[NullChange, ...]:
    rows = session.execute(
        select(NullResultChange)
        .where(NullResultChange.null_result_id == null_result_id)
        .order_by(NullResultChange.id)
    ).scalars()
    return tuple(NullChange(row.category, row.low, row.high, row.share_as_far) for row in rows)
