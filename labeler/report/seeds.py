"""A comparison by the crosscoders of several seeds: which they are, and each one's own change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.orm import Session

from labeler.report.model import CategoryRow, SeedRow
from labeler.report.randomisation import RandomisedSides, read_randomised_sides
from labeler.store.latents import current_setting
from labeler.store.schema import Comparison, ComparisonSeed, LatentSet, SeedChange

if TYPE_CHECKING:
    from taxonomy.counts import CategoryCounts
    from taxonomy.randomisation import DrawnCounts


@dataclass(frozen=True)
class FurtherSeed:
    """The same comparison by the crosscoders of another seed."""

    seed: int
    """Its number, from 1."""
    comparison: str
    """Name in the database."""
    sides: RandomisedSides | None
    """None where its sides were not drawn."""


@dataclass(frozen=True)
class SeedCounts:
    """The counts of one seed, and its drawn sides; None where they were not drawn."""

    counts: Sequence[CategoryCounts]
    sides: RandomisedSides | None

    def drawn(self, counting: str, denominator: str) -> DrawnCounts | None:
        """The counts of the drawn sides; None where too few of their latents are labelled."""
        return None if self.sides is None else self.sides.counts(self.counts, counting, denominator)

    def in_order_of(self, counts: Sequence[CategoryCounts]) -> SeedCounts:
        """The same in the order of another seed's counts, of the same taxonomy version."""
        by_category = {row.category: row for row in self.counts}
        return replace(self, counts=[by_category[row.category] for row in counts])


def read_further_seeds(
    session: Session, comparison_id: int, taxonomy_version_id: int, judge_id: int
) -> tuple[FurtherSeed, ...]:
    """The other seeds that count beside the first, in their order.

    Those whose sides were isolated by the same run and are labelled under the same taxonomy version
    by the same judge: the others are left over from earlier settings.
    """
    leading = session.get_one(Comparison, comparison_id)
    run_id = session.get_one(LatentSet, leading.target_set_id).run_id
    query = (
        select(ComparisonSeed.seed, Comparison.id, Comparison.name)
        .join(Comparison, Comparison.id == ComparisonSeed.comparison_id)
        .join(LatentSet, LatentSet.id == Comparison.target_set_id)
        .where(ComparisonSeed.leading_id == comparison_id, LatentSet.run_id == run_id)
        .order_by(ComparisonSeed.seed)
    )
    return tuple(
        FurtherSeed(
            row.seed,
            row.name,
            read_randomised_sides(session, row.id, taxonomy_version_id, judge_id),
        )
        for row in session.execute(query).all()
        if _is_labelled(session, row.id, (taxonomy_version_id, judge_id))
    )


def _is_labelled(session: Session, comparison_id: int, wanted: tuple[int, int]) -> bool:
    """Whether the taxonomy version and the judge of a comparison are these."""
    setting = current_setting(session, comparison_id)
    return setting is not None and (setting.taxonomy_version_id, setting.judge_id) == wanted


SEED_COLUMNS = tuple(
    column.name
    for column in SeedChange.__table__.columns
    if column.name not in ("id", "report_run_id", "comparison_id")
)
"""What a row of a seed stores besides its report and comparison."""


def seed_rows(by_seed: Sequence[Sequence[CategoryRow]]) -> tuple[SeedRow, ...]:
    """The rows of every seed alone, the first seed's first."""
    names = [name for name in SEED_COLUMNS if name != "seed"]
    return tuple(
        SeedRow(seed=seed, **{name: getattr(row, name) for name in names})
        for seed, rows in enumerate(by_seed)
        for row in rows
    )


def write_seed_rows(
    session: Session, report_run_id: int, comparison_id: int, rows: Sequence[SeedRow]
) -> None:
    """Store them under a report's run, replacing those it wrote before."""
    session.execute(delete(SeedChange).where(*_of(report_run_id, comparison_id)))
    session.add_all(
        SeedChange(report_run_id=report_run_id, comparison_id=comparison_id, **vars(row))
        for row in rows
    )


def read_seed_rows(session: Session, report_run_id: int, comparison_id: int) -> tuple[SeedRow, ...]:
    """The rows that a report stored; none where it had one seed."""
    query = select(SeedChange).where(*_of(report_run_id, comparison_id)).order_by(SeedChange.id)
    return tuple(
        SeedRow(**{name: getattr(row, name) for name in SEED_COLUMNS})
        for row in session.scalars(query)
    )


def _of(report_run_id: int, comparison_id: int) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return (
        SeedChange.report_run_id == report_run_id,
        SeedChange.comparison_id == comparison_id,
    )
