"""The change tables and checks that the newest report of a study stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, select, text
from sqlalchemy.orm import Session

from crosscoder.config import SIDES, SideName
from labeler.errors import UsageError
from labeler.report.answer import Checks, sensitivity_of
from labeler.report.basis import read_basis
from labeler.report.behaviour import read_behaviour
from labeler.report.category_latents import read_category_latents
from labeler.report.comparisons import ActiveComparison, read_comparisons
from labeler.report.effects import read_effects
from labeler.report.model import CategoryRow, ChangeTable, Coverage, Direction, PlantedCheck
from labeler.report.randomisation import PER_SIDE
from labeler.report.robustness import read_scores
from labeler.report.seeds import read_seed_rows
from labeler.report.statistics import ROW_COLUMNS, category_names, in_tree_order
from labeler.report.trust import read_grounds, trust_of
from labeler.store.comparisons import NamedComparison, read_null_runs
from labeler.store.schema import (
    CategoryChangeStatistic,
    CategoryCorrection,
    CategorySweep,
    JudgeCorrection,
    LatentSet,
    SubjectModel,
    TaxonomyVersion,
)
from labeler.store.taxonomies import missing_category_hint
from taxonomy.counts import ALPHA

if TYPE_CHECKING:
    from labeler.report.robustness import Sweep
    from taxonomy.robustness import CorrectedChange, Correction


@dataclass(frozen=True)
class ReportKey:
    """Which report's rows of which comparison, and when its counts were read."""

    report_run_id: int
    comparison_id: int
    computed_at: datetime


_POINT = (
    "category", "threshold", "target_count", "target_total", "reference_count", "reference_total",
    "percent_change", "ci_low", "ci_high",
)  # fmt: skip
"""What of a point of the sweep is stored."""


@dataclass(frozen=True)
class CheckRows:
    """The rows of one comparison's checks."""

    correction: JudgeCorrection
    """With a row for each corrected category."""
    sweep: Sequence[CategorySweep]


def check_rows(key: ReportKey, correction: Correction, sweep: Sweep, denominator: str) -> CheckRows:
    """The rows that store a correction and a sweep."""
    columns = CategoryCorrection.__table__.columns.keys()
    of_sides = {
        f"{side}_{name}": value
        for name, values in (
            ("reviewed", correction.n_reviewed),
            ("judged", correction.n_latents),
            ("is_whole", correction.is_whole),
        )
        for side, value in zip(SIDES, values, strict=True)
    }
    return CheckRows(
        JudgeCorrection(
            **vars(key),
            **of_sides,
            estimand=correction.estimand,
            denominator=denominator,
            refusal=correction.refusal,
            categories=[
                CategoryCorrection(
                    **{name: value for name, value in flat(row).items() if name in columns}
                )
                for row in correction.rows
            ],
        ),
        [
            CategorySweep(
                **vars(key),
                **{name: getattr(point, name) for name in _POINT},
                swept=sweep.swept,
                stability=swept.stability,
            )
            for swept in sweep.categories
            for point in swept.points
        ],
    )


def flat(row: CorrectedChange) -> dict[str, Any]:
    """A corrected category, name by name, as tables and files hold it."""
    sides = (
        ("target", row.target, row.target_errors, row.target_rogan_gladen),
        ("reference", row.reference, row.reference_errors, row.reference_rogan_gladen),
    )
    values: dict[str, Any] = {
        "category": row.category, "level": row.level, "parent": row.parent,
    }  # fmt: skip
    for side, share, _, _ in sides:
        values |= {
            f"{side}_method": share.method,
            f"{side}_reviewed": share.n_reviewed,
            f"{side}_judged": share.n_latents,
            f"{side}_judge_share": share.judge_share,
            f"{side}_share": share.share,
            f"{side}_share_low": share.low,
            f"{side}_share_high": share.high,
        }
    for name in ("percent_change", "ci_low", "ci_high", "p_value", "q_value"):
        values[name] = getattr(row, name)
    for side, _, errors, _ in sides:
        values |= {
            f"{side}_sensitivity": errors.sensitivity,
            f"{side}_specificity": errors.specificity,
            f"{side}_hits": errors.hits.count,
            f"{side}_positives": errors.hits.total,
            f"{side}_rejections": errors.rejections.count,
            f"{side}_negatives": errors.rejections.total,
        }
    values |= {"alike_p": row.equal_error_p, "alike_q": row.equal_error_q}
    return values | {f"{side}_rogan_gladen": found.share for side, _, _, found in sides}


def write_checks(session: Session, key: ReportKey, rows: CheckRows) -> None:
    """Store the rows of one comparison's checks, replacing those the same report wrote."""
    mine = select(JudgeCorrection.id).where(*_of(JudgeCorrection, key))
    session.execute(
        delete(CategoryCorrection).where(CategoryCorrection.judge_correction_id.in_(mine))
    )
    for table in (JudgeCorrection, CategorySweep):
        session.execute(delete(table).where(*_of(table, key)))
    session.add(rows.correction)
    session.add_all(rows.sweep)


def read_check_rows(session: Session, key: ReportKey) -> CheckRows | None:
    """The rows a report stored; None for a report of an older version."""
    correction = session.scalar(select(JudgeCorrection).where(*_of(JudgeCorrection, key)))
    if correction is None:
        return None
    swept = select(CategorySweep).where(*_of(CategorySweep, key)).order_by(CategorySweep.id)
    return CheckRows(correction, session.scalars(swept).all())


def _of(table: type[JudgeCorrection] | type[CategorySweep], key: ReportKey) -> tuple[Any, Any]:
    return (
        table.report_run_id == key.report_run_id,
        table.comparison_id == key.comparison_id,
    )


def checks_of(
    rows: CheckRows, main: Sequence[CategoryRow], others: Sequence[CategoryRow]
) -> Checks:
    """What the checks say, in short; `others` are the rows of the other ways of counting."""
    judged, corrected = rows.correction, rows.correction.categories
    stability = {row.category: row.stability for row in rows.sweep}
    told = [name for name, found in stability.items() if found != "too few to say"]
    found = [row for row in corrected if row.q_value < ALPHA]
    sizes = [int(row.threshold) for row in rows.sweep if row.swept == PER_SIDE]
    return Checks(
        refusal=judged.refusal,
        reviewed=(judged.target_reviewed, judged.reference_reviewed),
        is_whole=(judged.target_is_whole, judged.reference_is_whole),
        corrected_up=tuple(row.category for row in found if row.target_share > row.reference_share),
        corrected_down=tuple(
            row.category for row in found if row.target_share <= row.reference_share
        ),
        errs_unlike=tuple(row.category for row in corrected if row.alike_q < ALPHA),
        unstable=tuple(name for name in told if stability[name] == "unstable"),
        n_swept=len(told),
        turning=tuple(one.category for one in sensitivity_of(main, others) if one.turns),
        n_ways=1 + len({row.way for row in others}),
        sizes=(min(sizes), max(sizes)) if sizes else None,
    )


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
    facts: ActiveComparison,
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
        basis=read_basis(session, comparison, rows),
        behaviour=read_behaviour(session, comparison.id, rows),
        effects=read_effects(session, comparison.id, rows),
        latents=read_category_latents(session, comparison.name),
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
    facts: ActiveComparison,
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
    trust = trust_of(
        table,
        read_null_runs(session, facts.comparison, first.denominator, test=None),
        read_scores(session, facts.comparison, facts.judge_id),
        read_grounds(session, facts.target_set),
    )
    key = ReportKey(first.report_run_id, facts.comparison.id, first.computed_at)
    stored = read_check_rows(session, key)
    return replace(
        table,
        report_run_id=first.report_run_id,
        computed_at=first.computed_at,
        is_stale=facts.comparison.labels_changed_at > first.computed_at,
        checks=None if stored is None else checks_of(stored, rows, others),
        trust=trust,
        seeds=read_seed_rows(session, key.report_run_id, key.comparison_id),
    )


def _row(row: CategoryChangeStatistic, names: Mapping[str, str]) -> CategoryRow:
    return CategoryRow(
        name=names.get(row.category, row.category),
        **{name: getattr(row, name) for name in ROW_COLUMNS},
    )
