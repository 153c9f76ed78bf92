"""The checks of a report in the database: written by the report, read back for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

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


def write_checks(
    session: Session, key: ReportKey, correction: Correction, sweep: Sweep, denominator: str
) -> None:
    """Store correction and sweep of one comparison, replacing those the same report wrote."""
    _forget(session, key)
    judged = JudgeCorrection(
        report_run_id=key.report_run_id,
        comparison_id=key.comparison_id,
        computed_at=key.computed_at,
        estimand=correction.estimand,
        denominator=denominator,
        refusal=correction.refusal,
        target_reviewed=correction.n_reviewed[0],
        target_judged=correction.n_latents[0],
        target_is_whole=correction.is_whole[0],
        reference_reviewed=correction.n_reviewed[1],
        reference_judged=correction.n_latents[1],
        reference_is_whole=correction.is_whole[1],
    )
    session.add(judged)
    session.flush()
    session.add_all(_correction(judged.id, row) for row in correction.rows)
    session.add_all(
        CategorySweep(
            report_run_id=key.report_run_id,
            comparison_id=key.comparison_id,
            computed_at=key.computed_at,
            category=swept.category,
            swept=sweep.swept,
            threshold=point.threshold,
            target_count=point.target_count,
            target_total=point.target_total,
            reference_count=point.reference_count,
            reference_total=point.reference_total,
            percent_change=point.percent_change,
            ci_low=point.ci_low,
            ci_high=point.ci_high,
            stability=swept.stability,
        )
        for swept in sweep.categories
        for point in swept.points
    )


def _forget(session: Session, key: ReportKey) -> None:
    mine = select(JudgeCorrection.id).where(
        JudgeCorrection.report_run_id == key.report_run_id,
        JudgeCorrection.comparison_id == key.comparison_id,
    )
    session.execute(
        delete(CategoryCorrection).where(CategoryCorrection.judge_correction_id.in_(mine))
    )
    for table in (JudgeCorrection, CategorySweep):
        session.execute(
            delete(table).where(
                table.report_run_id == key.report_run_id,
                table.comparison_id == key.comparison_id,
            )
        )


def _correction(judge_correction_id: int, row: CorrectedChange) -> CategoryCorrection:
    target, reference = row.target_errors, row.reference_errors
    return CategoryCorrection(
        judge_correction_id=judge_correction_id,
        category=row.category,
        parent=row.parent,
        level=row.level,
        target_share=row.target.share,
        target_share_low=row.target.low,
        target_share_high=row.target.high,
        reference_share=row.reference.share,
        reference_share_low=row.reference.low,
        reference_share_high=row.reference.high,
        target_judge_share=row.target.judge_share,
        reference_judge_share=row.reference.judge_share,
        percent_change=row.percent_change,
        ci_low=row.ci_low,
        ci_high=row.ci_high,
        p_value=row.p_value,
        q_value=row.q_value,
        target_hits=target.hits.count,
        target_positives=target.hits.total,
        target_rejections=target.rejections.count,
        target_negatives=target.rejections.total,
        reference_hits=reference.hits.count,
        reference_positives=reference.hits.total,
        reference_rejections=reference.rejections.count,
        reference_negatives=reference.rejections.total,
        alike_p=row.alike_p,
        alike_q=row.alike_q,
        target_rogan_gladen=row.target_rogan_gladen.share,
        reference_rogan_gladen=row.reference_rogan_gladen.share,
    )


def read_checks(
    session: Session,
    report_run_id: int,
    comparison_id: int,
    main: Sequence[CategoryRow],
    others: Sequence[CategoryRow],
) -> Checks | None:
    """The checks a report stored; None for one of an older version."""
    judged = session.scalar(
        select(JudgeCorrection).where(
            JudgeCorrection.report_run_id == report_run_id,
            JudgeCorrection.comparison_id == comparison_id,
        )
    )
    if judged is None:
        return None
    corrected = session.scalars(
        select(CategoryCorrection)
        .where(CategoryCorrection.judge_correction_id == judged.id)
        .order_by(CategoryCorrection.id)
    ).all()
    stability: dict[str, str] = {}
    swept = ""
    for row in session.scalars(
        select(CategorySweep)
        .where(
            CategorySweep.report_run_id == report_run_id,
            CategorySweep.comparison_id == comparison_id,
        )
        .order_by(CategorySweep.id)
    ):
        stability[row.category], swept = row.stability, row.swept
    told = {name: found for name, found in stability.items() if found != "too few to say"}
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
        swept=swept,
        unstable=tuple(name for name, one in told.items() if one == "unstable"),
        n_swept=len(told),
        turning=tuple(one.category for one in sensitivity_of(main, others) if one.turns),
        n_ways=1 + len({(row.counting, row.weighting, row.denominator) for row in others}),
    )
