"""The change tables that the newest report of a study stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from crosscoder.settings import SIDES, SideName
from labeler.errors import UsageError
from labeler.report.checks_stored import ReportKey, checks_of, read_check_rows
from labeler.report.comparisons import ComparisonFacts, read_comparisons
from labeler.report.model import ChangeTable
from labeler.report.rows import CategoryRow, Coverage, Direction, PlantedCheck
from labeler.report.statistics import ROW_COLUMNS, category_names, in_tree_order
from labeler.store.renamed import missing_category_hint
from labeler.store.schema import (
    CategoryChangeStatistic,
    LatentSet,
    SubjectModel,
    TaxonomyVersion,
)
from labeler.store.study_comparisons import NamedComparison

_COVERAGE = text("SELECT * FROM v_coverage WHERE comparison = :comparison AND side = :side")


def side_label(session: Session, latent_set: LatentSet, side: SideName) -> str:
    """What a side is called: the model its latents are specific to, else target or reference."""
    if latent_set.target_model_id is None:
        return side
    return session.get_one(SubjectModel, latent_set.target_model_id).name


def read_coverage(session: Session, comparison: str) -> tuple[Coverage, Coverage]:
    """The coverage of the target and of the reference side."""
    target, reference = (_coverage_of(session, comparison, side) for side in SIDES)
    return target, reference


def _coverage_of(session: Session, comparison: str, side: SideName) -> Coverage:
    row = session.execute(_COVERAGE, {"comparison": comparison, "side": side}).mappings().one()
    return Coverage(**{name: value for name, value in row.items() if name != "comparison"})


def _check_planted(
    session: Session,
    taxonomy_version_id: int,
    rows: Sequence[CategoryRow],
    planted: Mapping[str, Direction],
) -> tuple[PlantedCheck, ...]:
    """The planted directions against the rows; UsageError for a category that is not there."""
    by_slug = {row.category: row for row in rows}
    for slug in planted:
        if slug not in by_slug:
            raise UsageError(
                f"report.planted.{slug}: no such category in the taxonomy;"
                f" {missing_category_hint(session, taxonomy_version_id, slug)}"
            )
    return tuple(PlantedCheck(direction, by_slug[slug]) for slug, direction in planted.items())


def change_table(
    session: Session,
    facts: ComparisonFacts,
    rows: tuple[CategoryRow, ...],
    denominator: str,
    planted: Mapping[str, Direction],
) -> ChangeTable:
    """The change table of a comparison from its rows."""
    comparison = facts.comparison
    return ChangeTable(
        comparison=comparison.name,
        target=side_label(session, facts.target_set, "target"),
        reference=side_label(session, facts.reference_set, "reference"),
        taxonomy=f"{facts.version.name} {facts.version.version}",
        denominator=denominator,
        rows=rows,
        coverage=read_coverage(session, comparison.name),
        planted=_check_planted(session, facts.version.id, rows, planted),
    )


def read_stored_tables(
    session: Session,
    planted: Mapping[str, Direction] | None = None,
    named: Sequence[NamedComparison] | None = None,
) -> list[ChangeTable]:
    """The newest stored change table of each comparison of the study that a report has covered.

    `named` are the comparisons of study.toml; None = every comparison of the database, by name.
    """
    tables = []
    for facts in read_comparisons(session, named):
        statistics = _newest_statistics(session, facts.comparison.id)
        if statistics:
            tables.append(_stored_table(session, facts, statistics, planted or {}))
    return tables


def _newest_statistics(session: Session, comparison_id: int) -> list[CategoryChangeStatistic]:
    newest = (
        select(func.max(CategoryChangeStatistic.report_run_id))
        .where(CategoryChangeStatistic.comparison_id == comparison_id)
        .scalar_subquery()
    )
    return list(
        session.scalars(
            select(CategoryChangeStatistic)
            .where(
                CategoryChangeStatistic.comparison_id == comparison_id,
                CategoryChangeStatistic.report_run_id == newest,
            )
            .order_by(CategoryChangeStatistic.id)
        )
    )


def _stored_table(
    session: Session,
    facts: ComparisonFacts,
    statistics: list[CategoryChangeStatistic],
    planted: Mapping[str, Direction],
) -> ChangeTable:
    leading = [row for row in statistics if row.is_main]
    first = leading[0]
    version = session.get_one(TaxonomyVersion, first.taxonomy_version_id)
    names = category_names(session, version.id)
    rows = in_tree_order([_row(row, names) for row in leading], list(names))
    others = [_row(row, names) for row in statistics if not row.is_main]
    table = change_table(
        session,
        replace(facts, version=version),
        rows,
        first.denominator,
        planted,
    )
    key = ReportKey(first.report_run_id, facts.comparison.id, first.computed_at)
    stored = read_check_rows(session, key)
    return replace(
        table,
        report_run_id=first.report_run_id,
        computed_at=first.computed_at,
        is_stale=facts.comparison.labels_changed_at > first.computed_at,
        checks=None if stored is None else checks_of(stored, rows, others),
    )


def _row(row: CategoryChangeStatistic, names: Mapping[str, str]) -> CategoryRow:
    return CategoryRow(
        name=names.get(row.category, row.category),
        **{name: getattr(row, name) for name in ROW_COLUMNS},
    )
