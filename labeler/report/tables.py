"""The change table and what belongs to it as CSV, JSON and Markdown files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

from labeler.report.answer import answer_of, computed_sentence, planted_sentence
from labeler.report.checks import check_sentences
from labeler.report.model import ChangeTable, ReportData
from labeler.report.rows import CategoryRow
from labeler.report.statistics import ROW_COLUMNS
from labeler.report.stored import flat
from labeler.text import csv_text, guarded, interval_text, one_line, probability_text, share_text

COLUMNS = ("comparison", "category", "name", *(c for c in ROW_COLUMNS if c != "category"))
"""Columns of the CSV and keys of the JSON: those of category_change_statistic, and the title."""


def records(tables: Sequence[ChangeTable]) -> list[dict[str, Any]]:
    """Every row of every table, unrounded; None for what is undefined or infinite."""
    return [
        {"comparison": table.comparison} | {name: getattr(row, name) for name in COLUMNS[1:]}
        for table in tables
        for row in table.rows
    ]


def to_csv(tables: Sequence[ChangeTable]) -> str:
    """CSV with a header; an empty field is NULL."""
    return csv_of(COLUMNS, records(tables))


def csv_of(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV with a header; an empty field is NULL, and no text runs as a formula."""
    return csv_text(columns, ([guarded(row.get(name, "")) for name in columns] for row in rows))


def to_json(tables: Sequence[ChangeTable]) -> str:
    """A JSON array of objects."""
    return json.dumps(records(tables), indent=1, allow_nan=False) + "\n"


_HEAD = (
    "category", "target", "share", "reference", "share", "change", "95% interval", "p", "q",
    "verdict",
)  # fmt: skip


def to_markdown(
    tables: Sequence[ChangeTable], notes: Mapping[str, Sequence[str]] | None = None
) -> str:
    """A section for each comparison: the answer, the categories with latents, the rest by name.

    `notes` are further sentences by comparison, listed under the answer.
    """
    return "\n".join(_section(table, (notes or {}).get(table.comparison, ())) for table in tables)


SCHEMA = "category_change.schema.json"


def schema_text() -> str:
    """The JSON schema of category_change.json."""
    return resources.files("labeler.report").joinpath("schemas", SCHEMA).read_text("utf-8")


def _section(table: ChangeTable, notes: Sequence[str]) -> str:
    answer = answer_of(table)
    heading = _escape(f"{table.comparison}: {table.target} against {table.reference}")
    lines = [f"## {heading}", "", f"**{_escape(answer.sentence)}**", "", _escape(answer.detail)]
    if table.checks:
        lines += ["", *(f"- {_escape(said)}" for said in check_sentences(table.checks))]
    if notes:
        lines += ["", *(f"- {_escape(note)}" for note in notes)]
    lines += ["", f"Shares of {table.denominator} latents; taxonomy {_escape(table.taxonomy)}.", ""]
    lines += [_line(_HEAD), _line(["---", *["---:"] * 8, "---"])]
    lines += [_line(_cells(row)) for row in table.filled]
    if table.empty:
        lines += ["", "No latents on either side: " + ", ".join(r.category for r in table.empty)]
    planted = planted_sentence(table)
    if planted:
        lines += ["", _escape(planted)]
    lines += ["", _escape(computed_sentence(table))]
    return "\n".join([*lines, ""])


def _cells(row: CategoryRow) -> list[str]:
    name = _escape(row.category)
    return [
        f"**{name}**" if row.level == 1 else f"&nbsp;&nbsp;{name}",
        f"{row.target_count}/{row.target_total}",
        share_text(row.target_share),
        f"{row.reference_count}/{row.reference_total}",
        share_text(row.reference_share),
        row.shown_change,
        interval_text(row.ci_low, row.ci_high),
        probability_text(row.p_value) if not row.is_empty else "",
        probability_text(row.q_value) if not row.is_empty else "",
        row.shown_verdict,
    ]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escape(text: str) -> str:
    """Text that Markdown and HTML show as it is."""
    shown = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for character in "\\`*_[]|#!":
        shown = shown.replace(character, "\\" + character)
    return shown


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
