"""What the verdicts leave out, and the banners of the null runs."""

from __future__ import annotations

import dataclasses
import json

import pytest

from labeler.report.build import ReportFiles
from labeler.report.model import ChangeTable, Measure, ScoreRow
from labeler.report.trust import Grounds, Trust, difference_low, trust_of
from labeler.store.comparisons import NullRun

SCRAMBLED = NullRun(
    "scrambled", "Scrambled", 1, n_called=0, n_tested=18,
    n_target=40, n_reference=38, n_shifts_called=0, n_shifts_tested=18,
)  # fmt: skip
RANDOM = dataclasses.replace(
    SCRAMBLED,
    kind="random",
    score_method="detection",
    own_minus_shuffled=0.05,
    own_minus_shuffled_low=0.03,
    own_minus_shuffled_high=0.07,
)


def scores(difference: float, half: float = 0.02) -> list[ScoreRow]:
    ends = difference - half, difference + half
    return [ScoreRow("both", "detection", 50, 0.6, 0.6 - difference, difference, *ends, 100, 100)]


def called(table: ChangeTable, counts: int, shifts: int = 0) -> ChangeTable:
    """The table with so many leaves called up by counts and by mean shift, and no others."""
    leaves = [row.category for row in table.leaves if not row.is_empty]
    rows = [
        dataclasses.replace(
            row,
            verdict="up" if row.category in leaves[:counts] else "no evidence",
            relative_shift=0.1,
            relative_shift_q=0.01 if row.category in leaves[:shifts] else 0.5,
        )
        for row in table.rows
    ]
    return dataclasses.replace(table, rows=tuple(rows))


@pytest.fixture
def table(planted_report: ReportFiles) -> ChangeTable:
    return planted_report.tables[0]


def test_without_null_runs_the_line_says_what_is_left_out(table: ChangeTable) -> None:
    trust = trust_of(table, [], scores(0.1), Grounds(1))
    assert trust.banners == trust.found == ()
    assert "one crosscoder was trained" in trust.sentence
    assert "scrambled fine-tune, int8 round trip and random dictionary" in trust.sentence
    assert "--null-runs" in trust.sentence
    assert "--null-runs" not in trust_of(table, [], [], Grounds(None)).sentence
    assert "the 2 other training seeds" in trust_of(table, [], [], Grounds(3)).sentence


@pytest.mark.parametrize(
    ("true", "null", "warns"),
    [((2, 0), (2, 0), 1), ((2, 0), (1, 0), 0), ((0, 0), (1, 0), 0), ((1, 2), (1, 3), 2)],
)
def test_banner_where_the_scrambled_fine_tune_is_called_as_often(
    table: ChangeTable, true: tuple[int, int], null: tuple[int, int], warns: int
) -> None:
    run = dataclasses.replace(SCRAMBLED, n_called=null[0], n_shifts_called=null[1])
    trust = trust_of(called(table, *true), [run], [], Grounds(1))
    assert len(trust.banners) == warns
    assert all("scrambled weight changes" in banner for banner in trust.banners)
    assert [found.name for found in trust.found] == ["this study", "scrambled fine-tune"]
    assert (trust.found[0].n_called, trust.found[0].n_shifts_called) == true


@pytest.mark.parametrize(("difference", "warns"), [(0.2, 0), (0.07, 1), (0.04, 1)])
def test_banner_where_the_trained_dictionary_does_not_beat_the_random_one(
    table: ChangeTable, difference: float, warns: int
) -> None:
    trust = trust_of(table, [RANDOM], scores(difference), Grounds(1))
    assert len(trust.banners) == warns
    assert all("random" in banner for banner in trust.banners)


def test_line_says_whether_scrambled_fine_tunes_count(table: ChangeTable) -> None:
    rows = tuple(dataclasses.replace(row, n_scrambled=8) for row in table.rows)
    basis = dataclasses.replace(table.basis, test="documents")
    table = dataclasses.replace(table, rows=rows, basis=basis)
    said = trust_of(table, [], [], Grounds(1, is_by_score=True)).sentence
    assert "what 8 scrambled fine-tunes show and how many" in said
    said = trust_of(table, [], [], Grounds(1)).sentence
    assert "for strengths and not for counts" in said


def test_lower_end_of_a_difference_of_means() -> None:
    low = difference_low(Measure(0.5, 0.2, 0.8), Measure(0.1, -0.3, 0.5))
    assert low == pytest.approx(0.4 - 0.5)
    assert difference_low(Measure(None, None, None), Measure(0.1, 0.0, 0.2)) is None


def test_line_stands_in_page_markdown_and_json(planted_report: ReportFiles) -> None:
    trust = planted_report.tables[0].trust
    assert isinstance(trust, Trust)
    page = planted_report.html.read_text("utf-8")
    opening = trust.sentence.split("`")[0]
    assert opening.replace("'", "&#39;") in page
    assert opening in planted_report.markdown.read_text("utf-8")
    stored = json.loads((planted_report.folder / "trust.json").read_text("utf-8"))
    assert [row["verdicts"] for row in stored] == [trust.sentence]
