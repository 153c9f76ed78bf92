from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import boschloo_exact

from taxonomy.counts import Side
from taxonomy.exact_tests import boschloo_p, fisher_p

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
