"""What stands beside the change table: every way of counting, correction, sweep, agreement."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from labeler.report.checks_stored import flat
from labeler.report.model import ReportData
from labeler.report.tables import COLUMNS, csv_of

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
        for is_main, rows in ((True, report.table.rows), (False, report.robustness.others)):
            for row in rows:
                values = {name: getattr(row, name) for name in COLUMNS[1:]}
                yield {"comparison": report.table.comparison, "is_main": is_main} | values


def _corrections(reports: Sequence[ReportData]) -> Iterator[dict[str, Any]]:
    for report in reports:
        correction = report.robustness.correction
        for row in correction.rows:
            values = flat(row)
            place = ("category", "level", "parent")
            yield {
                "comparison": report.table.comparison,
                **{name: values[name] for name in place},
                "denominator": report.table.denominator,
                "estimand": correction.estimand,
                **{name: value for name, value in values.items() if not name.endswith(_COUNTS)},
            }


_COUNTS = ("_hits", "_positives", "_rejections", "_negatives")
"""Counts behind the judge's error rates: in the database, and not in the file."""


def _sweeps(reports: Sequence[ReportData]) -> Iterator[dict[str, Any]]:
    for report in reports:
        sweep = report.robustness.sweep
        for swept in sweep.categories:
            for point in swept.points:
                head = {"comparison": report.table.comparison, "swept": sweep.swept}
                yield head | vars(point) | {"stability": swept.stability}
