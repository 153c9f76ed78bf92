"""The figures that examples/paper/README.md states follow from the counts beside them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from taxonomy.change import CategoryCounts, change_statistics
from taxonomy.counts import CategoryChange

README = Path(__file__).parents[3] / "examples" / "paper" / "README.md"
ROW = re.compile(
    r"^\| (?P<name>[a-z -]+?)(?: \(a parent\))? \| (?P<a>\d+) \| (?P<b>\d+) \|(?P<rest>.*)\|$"
)


def stated() -> list[re.Match[str]]:
    return [found for line in README.read_text("utf-8").splitlines() if (found := ROW.match(line))]


def change_of(row: re.Match[str]) -> CategoryChange:
    (change,) = change_statistics(
        [CategoryCounts(row["name"], 2, None, int(row["a"]), 89, int(row["b"]), 112)]
    )
    return change


def test_ten_published_percentages_are_stated() -> None:
    assert len(stated()) == 10


@pytest.mark.parametrize("row", stated(), ids=lambda row: row["name"])
def test_change_interval_and_what_could_have_shown(row: re.Match[str]) -> None:
    change = change_of(row)
    cells = [cell.strip() for cell in row["rest"].split("|")]
    assert cells[0] == change.printed_change
    assert change.ci_low is not None
    assert change.ci_high is not None
    assert cells[1] == f"{change.ci_low:+.0f}% to {change.ci_high:+.0f}%"
    found = [
        f"{value:+.0f}%"
        for value in (change.detectable_rise, change.detectable_fall)
        if value is not None
    ]
    assert cells[5] == ", ".join(found)
