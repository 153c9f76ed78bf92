"""Sides that were chosen by the strength shift: words, figures, bars, on every page."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from report_page import read_page
from report_studies import report_run
from shifted_study import build_shifted
from sqlalchemy import Engine, select, update

from crosscoder.isolation_rules import SHIFTED_WORDS, SPECIFIC_WORDS, side_words
from labeler.report.build import ReportFiles, ReportOptions, build_report
from labeler.report.comparisons import LatentSetView, ShiftCloud
from labeler.report.figures import shift_scatter, shift_t_histogram
from labeler.report.model import Measure
from labeler.report.shift_bar import shift_bar, shift_word
from labeler.store.engine import write_session
from labeler.store.schema import SideDraw

VIEW = LatentSetView("target", "a/target", "simpo", "shifted", {}, None, "simpo", "it", 5)


@pytest.fixture
def shifted_report(sqlite_engine: Engine, tmp_path: Path) -> ReportFiles:
    """The report of a pair under the rule `shifted`."""
    build_shifted(sqlite_engine)
    return build_report(
        sqlite_engine, ReportOptions(), tmp_path / "report", report_run(sqlite_engine)
    )


def test_the_words_of_the_sides_follow_the_rule_and_the_base() -> None:
    assert side_words("shifted") == SHIFTED_WORDS
    for rule in ("strict", "ranked", "imported", "of another package"):
        assert side_words(rule) == SPECIFIC_WORDS
    common_base = side_words("shifted", is_direct=False)
    assert set(common_base.values()) == {"strengthened"}


def test_the_page_says_strengthened_and_weakened_and_draws_the_shift(
    shifted_report: ReportFiles,
) -> None:
    html = shifted_report.html.read_text(encoding="utf-8")
    page = read_page(html)
    text = " ".join(page.text.split())
    assert "60 strengthened latents by the rule shifted" in text
    assert "60 weakened latents by the rule shifted" in text
    assert "simpo uses them more strongly than it" in text
    assert "so shifted is used" in text
    names = {path.name for path in shifted_report.figures}
    assert {"c1-shift-target.svg", "c1-shift-t-reference.svg"} <= names
    assert not any("-nu-" in name for name in names)
    assert html.count('<svg class="shift-bar up"') == 60
    assert html.count('<svg class="shift-bar down"') == 60


def test_shift_figures_stand_undefined_values() -> None:
    nothing = ShiftCloud(np.zeros(3), np.full(3, np.nan), np.full(3, np.nan))
    chosen = np.zeros(3, dtype=bool)
    assert "strength shift" in shift_scatter(VIEW, chosen, nothing, "a")
    assert "standard error" in shift_t_histogram(VIEW, chosen, nothing, "b")


def test_a_bar_says_its_numbers_and_stays_inside() -> None:
    bar = str(shift_bar(Measure(-0.12, -0.2, -0.04)))
    assert 'class="shift-bar down"' in bar
    assert "weakened: strength shift -0.12, 95% interval -0.20 to -0.04" in bar
    assert 'x1="6.0"' in bar
    assert shift_bar(Measure(None, None, None)) == ""


@pytest.mark.parametrize(
    ("shift", "word"),
    [
        (Measure(0.2, 0.1, 0.3), "strengthened"),
        (Measure(-0.2, -0.3, -0.1), "weakened"),
        (Measure(0.2, -0.1, 0.5), "strengthened, not certain"),
        (Measure(0.2, None, None), "strengthened, not certain"),
        (Measure(None, None, None), ""),
    ],
)
def test_the_word_of_a_shift(shift: Measure, word: str) -> None:
    assert shift_word(shift) == word


def test_the_number_per_side_is_swept_beside_what_draws_do(shifted_report: ReportFiles) -> None:
    with (shifted_report.folder / "threshold_sweep.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["category"] == "safety"]
    assert {row["swept"] for row in rows} == {"latents per side"}
    assert [float(row["threshold"]) for row in rows] == [40, 60, 100, 150, 200]
    assert [int(row["target_total"]) for row in rows] == [40, 60, 100, 150, 200]
    main = next(row for row in shifted_report.tables[0].rows if row.category == "safety")
    own = rows[1]
    assert int(own["target_count"]) == main.target_count
    assert float(own["ci_low"]) == pytest.approx(main.ci_low)
    assert float(own["null_low"]) < 0 < float(own["null_high"]) < float(own["percent_change"])
    text = " ".join(read_page(shifted_report.html.read_text(encoding="utf-8")).text.split())
    assert "With fewer and more latents" in text
    assert "With 40 to 200 latents per side" in text


@pytest.mark.slow
def test_where_the_draws_have_one_size_the_page_says_why_that_was_not_varied(
    sqlite_engine: Engine, tmp_path: Path
) -> None:
    build_shifted(sqlite_engine)
    with write_session(sqlite_engine) as session:
        draws = session.execute(select(SideDraw)).scalar_one()
        sides = {"target": draws.target[:, :60], "reference": draws.reference[:, :60]}
        session.execute(update(SideDraw).values(has_prefixes=False, **sides))
    folder, run_id = tmp_path / "report", report_run(sqlite_engine)
    files = build_report(sqlite_engine, ReportOptions(), folder, run_id)
    page = read_page(files.html.read_text(encoding="utf-8"))
    text = " ".join(page.text.split())
    assert "Isolated more strictly" in text
    assert "The number of latents per side could not be varied" in text
