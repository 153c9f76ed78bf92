from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import boschloo_exact, fisher_exact

from taxonomy.counts import Side
from taxonomy.intervals import (
    benjamini_hochberg,
    boschloo_p,
    fisher_p,
    least_attainable_p,
    minimum_detectable_count,
)


def test_fisher_matches_the_lady_tasting_tea() -> None:
    assert fisher_p(Side(3, 4), Side(1, 4)) == pytest.approx(34 / 70)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.integers(1, 25), st.integers(1, 25), st.data())
def test_the_least_attainable_p_is_the_smallest_over_all_tables_with_these_margins(
    n_target: int, n_reference: int, data: st.DataObject
) -> None:
    pooled = data.draw(st.integers(0, n_target + n_reference))
    tables = [
        (Side(count, n_target), Side(pooled - count, n_reference))
        for count in range(max(0, pooled - n_reference), min(pooled, n_target) + 1)
    ]
    smallest = min(fisher_p(*table) for table in tables)
    for table in tables:
        assert least_attainable_p(*table) == pytest.approx(smallest, rel=1e-6)


def test_benjamini_hochberg_matches_a_worked_example() -> None:
    adjusted = benjamini_hochberg([0.01, 0.04, 0.03, 0.5])
    assert adjusted == pytest.approx([0.04, 0.04 * 4 / 3, 0.04 * 4 / 3, 0.5])
    assert benjamini_hochberg([]) == []


@pytest.mark.parametrize(
    ("reference_count", "up", "down"),
    [(1, 6, None), (4, 10, None), (9, 17, 1), (18, 26, 6), (32, 39, 14)],
)
def test_minimum_detectable_counts_at_the_published_size(
    reference_count: int, up: int, down: int | None
) -> None:
    reference = Side(reference_count, 112)
    assert minimum_detectable_count(reference, 89) == up
    assert minimum_detectable_count(reference, 89, direction="down") == down


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(1, 60), st.data())
def test_minimum_detectable_count_is_the_nearest_that_a_full_scan_finds(
    n_target: int, n_reference: int, data: st.DataObject
) -> None:
    reference = Side(data.draw(st.integers(0, n_reference)), n_reference)
    detected = [
        count
        for count in range(n_target + 1)
        if n_target and fisher_p(Side(count, n_target), reference) < 0.05
    ]
    above = [count for count in detected if count > reference.share * n_target]
    below = [count for count in detected if count < reference.share * n_target]
    assert minimum_detectable_count(reference, n_target) == min(above, default=None)
    assert minimum_detectable_count(reference, n_target, direction="down") == max(
        below, default=None
    )


def test_nothing_is_detectable_against_an_empty_side() -> None:
    assert minimum_detectable_count(Side(0, 0), 89) is None
    assert minimum_detectable_count(Side(5, 112), 0) is None


@pytest.mark.parametrize("counts", [(300, 250), (3000, 2500), (12, 4), (0, 9), (5, 5), (40_000, 1)])
def test_large_tables_have_the_librarys_p(counts: tuple[int, int]) -> None:
    target, reference = Side(counts[0], 48_123), Side(counts[1], 47_987)
    table = [[s.count, s.total - s.count] for s in (target, reference)]
    assert fisher_p(target, reference) == pytest.approx(fisher_exact(table).pvalue, rel=1e-6)


totals = st.integers(1, 25)


@given(totals, totals, st.data())
@settings(max_examples=25, deadline=None)
def test_it_equals_scipys_test(n_target: int, n_reference: int, data: st.DataObject) -> None:
    a = data.draw(st.integers(0, n_target))
    b = data.draw(st.integers(0, n_reference))
    if a + b in (0, n_target + n_reference):
        return
    expected = boschloo_exact([[a, b], [n_target - a, n_reference - b]], n=64).pvalue
    assert boschloo_p(Side(a, n_target), Side(b, n_reference)) == pytest.approx(expected, abs=1e-6)


@given(totals, totals, st.data())
@settings(max_examples=40, deadline=None)
def test_it_is_never_weaker_than_the_one_sided_fisher_tests_it_is_built_on(
    n_target: int, n_reference: int, data: st.DataObject
) -> None:
    target = Side(data.draw(st.integers(0, n_target)), n_target)
    reference = Side(data.draw(st.integers(0, n_reference)), n_reference)
    p_value = boschloo_p(target, reference)
    assert 0 <= p_value <= 1
    assert p_value == pytest.approx(boschloo_p(reference, target), abs=1e-9)


def test_the_published_safety_counts() -> None:
    safety = Side(19, 89), Side(18, 112)
    assert boschloo_p(*safety) == pytest.approx(0.36118, abs=1e-5)
    assert boschloo_p(*safety) < fisher_p(*safety)


def test_a_table_with_an_empty_margin_says_nothing() -> None:
    assert boschloo_p(Side(0, 0), Side(3, 9)) == 1.0
    assert boschloo_p(Side(0, 5), Side(0, 9)) == 1.0
    assert boschloo_p(Side(5, 5), Side(9, 9)) == 1.0
