"""What stands beside the change table: every way of counting, correction, sweep, agreement."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from labeler.report.model import ChangeTable, ReportData
from labeler.report.rows import SIDES
from labeler.report.tables import COLUMNS, csv_of

if TYPE_CHECKING:
    from taxonomy.corrected_change import CorrectedChange

SENSITIVITY = "sensitivity.csv"
CORRECTION = "judge_correction.csv"
SWEEP = "threshold_sweep.csv"
AGREEMENT = "judge_agreement"


def further_files(reports: Sequence[ReportData]) -> dict[str, str]:
    """File name to content; a file without rows is left out."""
    found = {
        SENSITIVITY: list(_ways(reports)),
        CORRECTION: list(_corrections(reports)),
        SWEEP: list(_sweeps(reports)),
    }
    return {name: csv_of(tuple(rows[0]), rows) for name, rows in found.items() if rows}


def agreement_files(reports: Sequence[ReportData]) -> dict[str, str]:
    """How far the judges agree, as CSV and as JSON; nothing where no comparison says."""
    rows = [
        {
            "comparison": row.comparison,
            "raters": row.raters,
            "alpha": row.agreement.alpha,
            "ci_low": row.agreement.ci_low,
            "ci_high": row.agreement.ci_high,
            "n_latents": row.agreement.n_units,
            "n_answers": row.agreement.n_answers,
            "n_raters": row.agreement.n_raters,
            "n_categories": row.agreement.n_categories,
            "reason": row.agreement.reason,
        }
        for report in reports
        for row in report.agreement
    ]
    if not rows:
        return {}
    return {
        f"{AGREEMENT}.csv": csv_of(tuple(rows[0]), rows),
        f"{AGREEMENT}.json": json.dumps(rows, indent=1, allow_nan=False) + "\n",
    }


def _ways(reports: Sequence[ReportData]) -> Iterator[dict[str, Any]]:
    for report in reports:
        if report.robustness is None:
            continue
        for is_main, rows in ((True, report.table.rows), (False, report.robustness.others)):
            for row in rows:
                values = {name: getattr(row, name) for name in COLUMNS[1:]}
                yield {"comparison": report.table.comparison, "is_main": is_main} | values


def _corrections(reports: Sequence[ReportData]) -> Iterator[dict[str, Any]]:
    for report in reports:
        if report.robustness is not None:
            for row in report.robustness.correction.rows:
                yield _correction(report.table, row, report.robustness.correction.estimand)


def _correction(table: ChangeTable, row: CorrectedChange, estimand: str) -> dict[str, Any]:
    values: dict[str, Any] = {
        "comparison": table.comparison,
        "category": row.category,
        "level": row.level,
        "parent": row.parent,
        "denominator": table.denominator,
        "estimand": estimand,
    }
    for side, share in zip(SIDES, (row.target, row.reference), strict=True):
        values |= {
            f"{side}_method": share.method,
            f"{side}_reviewed": share.n_reviewed,
            f"{side}_judged": share.n_latents,
            f"{side}_judge_share": share.judge_share,
            f"{side}_share": share.share,
            f"{side}_share_low": share.low,
            f"{side}_share_high": share.high,
        }
    values |= {
        name: getattr(row, name)
        for name in ("percent_change", "ci_low", "ci_high", "p_value", "q_value")
    }
    for side, errors in zip(SIDES, (row.target_errors, row.reference_errors), strict=True):
        values |= {
            f"{side}_sensitivity": errors.sensitivity,
            f"{side}_specificity": errors.specificity,
        }
    return values | {
        "alike_p": row.alike_p,
        "alike_q": row.alike_q,
        "target_rogan_gladen": row.target_rogan_gladen.share,
        "reference_rogan_gladen": row.reference_rogan_gladen.share,
    }


def _sweeps(reports: Sequence[ReportData]) -> Iterator[dict[str, Any]]:
    for report in reports:
        if report.robustness is None:
            continue
        sweep = report.robustness.sweep
        for swept in sweep.categories:
            for point in swept.points:
                values = {field.name: getattr(point, field.name) for field in fields(point)}
                head = {"comparison": report.table.comparison, "swept": sweep.swept}
                yield head | values | {"stability": swept.stability}
