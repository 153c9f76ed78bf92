"""The checks of a report as rows of the database: what the report says of them is read from these.

The same rows, fresh from the statistics or read back, give the same sentences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from crosscoder.settings import SIDES
from labeler.report.checks import Checks
from labeler.report.rows import CategoryRow
from labeler.report.sensitivity import sensitivity_of
from labeler.store.schema import CategoryCorrection, CategorySweep, JudgeCorrection
from taxonomy.significance import ALPHA

if TYPE_CHECKING:
    from labeler.report.sweeping import Sweep
    from taxonomy.corrected_change import CorrectedChange, Correction


@dataclass(frozen=True)
class ReportKey:
    """Which report's rows of which comparison, and when its counts were read."""

    report_run_id: int
    comparison_id: int
    computed_at: datetime


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
            CategorySweep(**vars(key), **vars(point), swept=sweep.swept, stability=swept.stability)
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
    values |= {"alike_p": row.alike_p, "alike_q": row.alike_q}
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
    )
