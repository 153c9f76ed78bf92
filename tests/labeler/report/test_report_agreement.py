"""The database, the CSV, the JSON, the Markdown and the page say the same."""

from __future__ import annotations

import csv
import json
from typing import Any

import pytest
from report_page import read_page
from sqlalchemy import select
from sqlalchemy.orm import Session

from labeler.report.build import ReportFiles
from labeler.report.model import CategoryRow
from labeler.report.statistics import ROW_COLUMNS
from labeler.store.engine import open_engine
from labeler.store.schema import CategoryChangeStatistic
from labeler.text import interval_text, probability_text, share_text


@pytest.fixture(params=["paper_report", "planted_report"])
def files(request: pytest.FixtureRequest) -> ReportFiles:
    return request.getfixturevalue(request.param)


def stored_rows(files: ReportFiles) -> dict[str, CategoryChangeStatistic]:
    engine = open_engine(f"sqlite:///{files.folder.parent / 'difflens.db'}")
    with Session(engine) as session:
        leading = select(CategoryChangeStatistic).where(CategoryChangeStatistic.is_main)
        return {row.category: row for row in session.scalars(leading)}


def written(value: Any) -> str:
    """A value as CSV writes it."""
    return "" if value is None else str(value)


def table_row(files: ReportFiles, category: str) -> CategoryRow:
    return next(row for row in files.tables[0].rows if row.category == category)


@pytest.mark.slow
def test_csv_holds_the_stored_rows_unrounded(files: ReportFiles) -> None:
    stored = stored_rows(files)
    with files.csv.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["category"] for row in rows] == [row.category for row in files.tables[0].rows]
    for row in rows:
        expected = stored[row["category"]]
        assert {name: row[name] for name in ROW_COLUMNS} == {
            name: written(getattr(expected, name)) for name in ROW_COLUMNS
        }


def test_json_is_an_array_of_the_stored_rows(files: ReportFiles) -> None:
    stored = stored_rows(files)
    rows = json.loads(files.json.read_text(encoding="utf-8"))
    assert len(rows) == len(stored)
    for row in rows:
        assert row["comparison"] == files.tables[0].comparison
        assert all(row[name] == getattr(stored[row["category"]], name) for name in ROW_COLUMNS)


def test_the_page_shows_the_stored_values_and_carries_them_unrounded(files: ReportFiles) -> None:
    stored = stored_rows(files)
    page = read_page(files.html.read_text(encoding="utf-8"))
    assert set(page.rows) == {row.category for row in files.tables[0].filled}
    for category, cells in page.rows.items():
        row = stored[category]
        assert cells[1] == f"{row.target_count}/{row.target_total} {share_text(row.target_share)}"
        assert cells[2] == (
            f"{row.reference_count}/{row.reference_total} {share_text(row.reference_share)}"
        )
        assert cells[3:7] == [
            row.printed_change,
            interval_text(row.ci_low, row.ci_high),
            probability_text(row.p_value),
            probability_text(row.q_value),
        ]
        assert cells[7].endswith(row.verdict)
        assert page.values[category] == [
            written(value)
            for value in (
                row.target_count,
                row.reference_count,
                row.percent_change,
                row.p_value,
                row.q_value,
            )
        ]


def test_markdown_prints_the_stored_values(files: ReportFiles) -> None:
    stored = stored_rows(files)
    text = files.markdown.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert len(lines) == len(files.tables[0].filled)
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        row = stored[cells[0].removeprefix("&nbsp;&nbsp;").strip("*")]
        assert cells[1:] == [
            f"{row.target_count}/{row.target_total}",
            share_text(row.target_share),
            f"{row.reference_count}/{row.reference_total}",
            share_text(row.reference_share),
            row.printed_change,
            interval_text(row.ci_low, row.ci_high),
            probability_text(row.p_value),
            probability_text(row.q_value),
            row.verdict,
        ]


def test_every_category_without_latents_is_named_in_markdown_and_page(files: ReportFiles) -> None:
    empty = [row.category for row in files.tables[0].empty]
    assert empty
    page = read_page(files.html.read_text(encoding="utf-8"))
    assert [value for name, value in page.attributes if name == "data-empty"] == empty
    assert f"No latents on either side: {', '.join(empty)}" in files.markdown.read_text()
    assert all(table_row(files, category).is_empty for category in empty)
