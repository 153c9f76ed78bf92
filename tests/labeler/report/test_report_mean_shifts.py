"""The sentence about mean strength shifts."""

from __future__ import annotations

import dataclasses

import pytest

from labeler.report.answer import answer_of
from labeler.report.build import ReportFiles
from labeler.report.mean_shifts import shift_sentence
from labeler.report.model import ChangeTable


def shifted(table: ChangeTable, shifts: dict[str, tuple[float, float]]) -> ChangeTable:
    """The table with a relative shift and its q for some categories, 0 and 1 for the others."""
    rows = []
    for row in table.rows:
        shift, q_value = shifts.get(row.category, (0.0, 1.0))
        rows.append(dataclasses.replace(row, relative_shift=shift, relative_shift_q=q_value))
    return dataclasses.replace(table, rows=tuple(rows))


@pytest.mark.parametrize(
    ("shifts", "said"),
    [
        ({"safety": (0.02, 0.01)}, "Safety (+0.020) more strongly than the rest ("),
        ({"safety": (-0.02, 0.01)}, "Safety (-0.020) less strongly than the rest ("),
        (
            {"safety": (0.02, 0.01), "self-reference": (-0.1, 0.04)},
            "more strongly than the rest, and Self-reference (-0.100) less strongly (",
        ),
        ({"safety": (0.02, 0.05)}, "not shown to use any category more or less strongly"),
    ],
)
def test_sentence_names_the_categories_and_their_direction(
    paper_report: ReportFiles, shifts: dict[str, tuple[float, float]], said: str
) -> None:
    assert said in (shift_sentence(shifted(paper_report.tables[0], shifts)) or "")


def test_without_shifts_nothing_is_said(paper_report: ReportFiles) -> None:
    assert shift_sentence(paper_report.tables[0]) is None


def test_shifts_lead_the_answer_where_no_change_of_counts_is_distinguishable(
    paper_report: ReportFiles,
) -> None:
    table = paper_report.tables[0]
    rows = tuple(dataclasses.replace(row, verdict="no evidence") for row in table.rows)
    shifts = {"safety": (0.02, 0.01)}
    answer = answer_of(shifted(dataclasses.replace(table, rows=rows), shifts))
    assert answer.sentence.endswith(
        "Safety (+0.020) more strongly than the rest. No change of counts is distinguishable."
    )
    assert answer.detail.startswith("Strength: over all labelled latents")
    called = tuple(dataclasses.replace(row, verdict="up") for row in table.rows)
    counted = answer_of(shifted(dataclasses.replace(table, rows=called), shifts))
    assert "distinguishable from zero" in counted.sentence
    assert "Over all labelled latents" in counted.detail


def test_a_category_without_a_group_is_named_beside_those_of_groups(
    paper_report: ReportFiles,
) -> None:
    table = paper_report.tables[0]
    alone = dataclasses.replace(table.rows[0], category="alone", name="Alone", level=1, parent=None)
    flat = dataclasses.replace(table, rows=(*table.rows, alone))
    said = shift_sentence(shifted(flat, {"alone": (0.02, 0.01), "safety": (0.02, 0.01)})) or ""
    assert "Alone" in said
    assert "Safety" in said
