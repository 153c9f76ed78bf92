from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from labeler.report.answer import answer_of, planted_sentence
from labeler.report.build import ReportFiles
from labeler.report.model import ChangeTable, PlantedCheck
from labeler.report.tables import make_console, print_change_tables, print_tables, to_markdown
from labeler.study.study_file import StudyFile


def printed(table: ChangeTable, width: int | None = None) -> str:
    stream = io.StringIO()
    print_tables([table], make_console(stream, width))
    return stream.getvalue()


def line_of(text: str, slug: str) -> str:
    return next(line for line in text.splitlines() if line.strip().startswith(slug))


def test_the_table_has_counts_shares_change_interval_p_q_and_verdict(
    paper_report: ReportFiles,
) -> None:
    text = printed(paper_report.tables[0])
    assert " ".join(line_of(text, "safety ").split()) == (
        "safety 19/89 21.3% 18/112 16.1% +32.8% -25% to +136% 0.36 1.00 no evidence"
    )
    assert " ".join(line_of(text, "technical").split()).startswith(
        "technical 21/89 23.6% 32/112 28.6% -17.4%"
    )
    assert line_of(text, "safety ").startswith("  safety")
    assert line_of(text, "technical").startswith("technical")
    assert "None of the 15 changes is distinguishable from zero: the strongest, " in text
    assert "89 of 92 target latents and 112 of 113 reference latents are labelled." in " ".join(
        text.split()
    )


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
def test_every_change_and_verdict_fits_any_terminal(paper_report: ReportFiles, width: int) -> None:
    text = printed(paper_report.tables[0], width)
    assert max(len(line) for line in text.splitlines()) <= width
    for change in ("+32.8%", "+43.8%", "-68.5%", "+151.7%"):
        assert change in text


def test_output_that_is_no_terminal_has_no_escapes(paper_report: ReportFiles) -> None:
    assert "\x1b" not in printed(paper_report.tables[0])


def test_new_is_printed_and_empty_categories_are_listed(planted_report: ReportFiles) -> None:
    text = printed(planted_report.tables[0])
    assert " new " in line_of(text, "instruction-following")
    assert "+36% to \u221e" in line_of(text, "instruction-following")
    assert "No latents on either side: factual-verification" in text


def test_planted_directions_are_counted_on_one_line(planted_report: ReportFiles) -> None:
    text = " ".join(printed(planted_report.tables[0]).split())
    assert "Planted directions: 3 of 3 point estimates have the planted sign" in text
    assert "instruction-following up (new: yes)" in text


def test_hostile_names_cannot_drive_the_terminal(paper_report: ReportFiles) -> None:
    table = paper_report.tables[0]
    hostile = replace(
        table,
        comparison="\x1b[2Jgone [bold]x[/bold]",
        target="\x1b]0;title\x07",
        rows=tuple(
            replace(
                row,
                category=f"{row.category}\x1b[31m[red]",
                parent=None if row.parent is None else f"{row.parent}\x1b[31m[red]",
            )
            for row in table.rows
        ),
    )
    text = printed(hostile)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\u241b[2Jgone [bold]x[/bold]" in text


def test_a_stale_table_says_so(paper_report: ReportFiles) -> None:
    text = printed(replace(paper_report.tables[0], is_stale=True))
    assert "Labels changed after this report" in text


def test_distinguishable_changes_are_named_with_their_intervals(paper_report: ReportFiles) -> None:
    table = paper_report.tables[0]
    rows = tuple(
        replace(row, verdict="up", q_value=0.01) if row.category == "safety" else row
        for row in table.rows
    )
    assert answer_of(replace(table, rows=rows)).sentence == (
        "1 of the 15 changes is distinguishable from zero: "
        "Safety (up, +32.8%, 95% interval -25% to +136%)."
    )


def test_nothing_planted_is_nothing_said(paper_report: ReportFiles) -> None:
    assert planted_sentence(paper_report.tables[0]) is None


def test_the_stored_table_of_a_study_is_printed_with_the_pages_path(
    planted_report: ReportFiles, tmp_path: Path
) -> None:
    folder = planted_report.folder.parent
    path = folder / "study.toml"
    path.write_text(
        '[study]\nname = "demo"\n[report.planted]\nsafety = "up"\n'
        '[[comparison]]\nname = "simpo-vs-it"\ntarget = "simpo"\nreference = "it"\n',
        encoding="utf-8",
    )
    stream = io.StringIO()
    print_change_tables(StudyFile.read(path), stream)
    text = stream.getvalue()
    assert "simpo-vs-it: simpo against it" in text
    assert "1 of 1 point estimates" in " ".join(text.split())
    assert f"report: {planted_report.html}" in text


def test_the_answer_tells_whether_the_sides_differ_at_all(paper_report: ReportFiles) -> None:
    table = paper_report.tables[0]
    assert "are not shown to differ (permutation test, p = 0." in answer_of(table).detail
    (safety,) = (row for row in table.rows if row.category == "safety")
    shifted = replace(
        table,
        rows=tuple(
            replace(row, target_count=60, reference_count=10)
            if row.category in (safety.category, safety.parent)
            else replace(row, target_count=0, reference_count=0)
            for row in table.rows
        ),
    )
    assert "categories differ (permutation test, p = <0.001)" in answer_of(shifted).detail


def test_a_planted_category_without_latents_says_why_there_is_no_change(
    planted_report: ReportFiles,
) -> None:
    table = planted_report.tables[0]
    row = next(row for row in table.empty if row.category == "factual-verification")
    planted = replace(table, planted=(PlantedCheck("up", row),))
    line = " ".join(line_of(printed(planted), "factual-verification").split())
    assert line.startswith("factual-verification 0/")
    assert line.endswith(" n/a no latents on either side")
    assert "| n/a |" in to_markdown([planted])
