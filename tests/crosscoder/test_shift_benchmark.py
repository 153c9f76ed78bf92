"""What the shift benchmark makes of its tables."""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

import pytest
from shift import ChangedTables, documents_at

ROW = ChangedTables(1.04, 611, 100, 0.2, 0.3, 0.0, 10.0, 5.0, 0.95, 0.95, 0.95, (1.0, 2.0, None))


def measured(*called: tuple[int, float]) -> list[ChangedTables]:
    return [replace(ROW, documents=documents, power=power) for documents, power in called]


def test_the_size_of_a_power_lies_where_the_probit_grows_like_the_root_of_the_documents() -> None:
    normal = NormalDist()
    power = {size: normal.cdf(0.05 * size**0.5 - 1.5) for size in (400, 900, 2500)}
    expected = ((normal.inv_cdf(0.8) + 1.5) / 0.05) ** 2
    assert documents_at(measured(*power.items()), 0.8) == pytest.approx(expected)


def test_a_power_of_all_texts_stays_finite_and_one_that_was_not_met_has_no_size() -> None:
    at = documents_at(measured((600, 0.3), (2000, 1.0)), 0.8)
    assert at is not None
    assert 600 < at < 2000
    assert documents_at(measured((600, 0.3), (2000, 0.5)), 0.8) is None
