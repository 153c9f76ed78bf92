from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from taxonomy.counts import CategoryChange, CategoryCounts
from taxonomy.power import TextAdvice, text_advice
from taxonomy.randomisation import DrawnCounts, bounded_interval, randomised_change_statistics

PER_SIDE, DOCUMENTS, DRAWS = 100, 600, 1999


def draws(spread: float, n_members: int = 1000, n_categories: int = 1) -> DrawnCounts:
    """Normal differences of the counts of independent categories."""
    rng = np.random.default_rng(0)
    differences = np.round(rng.normal(0, spread, (DRAWS, n_categories)))
    totals = np.full(DRAWS, float(PER_SIDE))
    return DrawnCounts(
        30 + np.maximum(differences, 0),
        30 + np.maximum(-differences, 0),
        totals,
        totals,
        np.full(n_categories, float(n_members)),
    )


def changes(drawn: DrawnCounts, *differences: int) -> list[CategoryChange]:
    counts = [
        CategoryCounts(f"c{i}", 1, None, 30 + difference, PER_SIDE, 30, PER_SIDE)
        for i, difference in enumerate(differences)
    ]
    return randomised_change_statistics(counts, drawn)


def advice(spread: float, difference: int, n_members: int = 1000) -> TextAdvice:
    drawn = draws(spread, n_members)
    return text_advice(changes(drawn, difference), drawn, DOCUMENTS)[0]


def test_small_changes_need_documents_by_the_square_of_their_size() -> None:
    found = advice(4, 5)
    assert found.documents_needed is not None
    plain = DOCUMENTS * ((0.01 * found.detectable_points + 0.84 * 0.04) / 0.05) ** 2
    assert found.documents_needed == pytest.approx(plain, rel=0.03)
    assert found.detectable_points == pytest.approx(100 * 1.96 * 0.04 + 1, abs=1)


def test_in_the_advised_documents_the_change_is_called_with_the_power_it_promises() -> None:
    found = advice(4, 5)
    assert found.documents_needed is not None
    grown = 5 * math.sqrt(found.documents_needed / DOCUMENTS)
    called = 1 - NormalDist(grown, 4).cdf(found.detectable_points)
    assert called == pytest.approx(0.8, abs=0.03)


def test_no_amount_is_advised_for_a_change_that_a_third_of_the_draws_show() -> None:
    found = advice(6, 4)
    assert found.documents_needed is None
    assert found.detectable_points is not None
    assert advice(6, -7).documents_needed is not None, "falls count alike"


def test_no_amount_is_advised_where_the_category_has_too_few_latents() -> None:
    assert advice(6, 8, n_members=10).documents_needed is None


def test_a_change_that_is_large_for_its_latents_needs_no_more_text() -> None:
    found = advice(6, 40, n_members=45)
    assert found.documents_needed is not None
    assert found.documents_needed < DOCUMENTS


def test_among_many_categories_a_change_must_be_larger_and_less_beside_others_that_are_called() -> (
    None
):
    alone = advice(4, 5).detectable_points
    drawn = draws(4, n_categories=10)
    quiet = text_advice(changes(drawn, 5, *[0] * 9), drawn, DOCUMENTS)[0]
    beside = text_advice(changes(drawn, 5, *[30] * 9), drawn, DOCUMENTS)[0]
    assert alone is not None
    assert quiet.detectable_points is not None
    assert quiet.detectable_points > alone
    assert beside.detectable_points == pytest.approx(alone, abs=1)


def test_too_few_draws_for_so_many_categories_show_no_change() -> None:
    drawn = draws(4, n_categories=10)
    few = replace(
        drawn,
        **{
            name: getattr(drawn, name)[:99]
            for name in ("target", "reference", "target_total", "reference_total")
        },
    )
    found = text_advice(changes(few, 5, *[0] * 9), few, DOCUMENTS)[0]
    assert (found.detectable_points, found.documents_needed) == (None, None)


def test_an_interval_holds_0_within_the_reach_narrows_towards_the_largest_and_stays_inside() -> (
    None
):
    low, high = bounded_interval(0.0, 0.3, 0.75)
    assert (low, high) == (pytest.approx(-0.3), pytest.approx(0.3))
    assert bounded_interval(0.29, 0.3, 0.75)[0] < 0 < bounded_interval(0.31, 0.3, 0.75)[0]
    low, high = bounded_interval(0.6, 0.3, 0.75)
    assert high - low < 0.6
    assert 0.6 < high <= 0.75
    assert bounded_interval(0.75, 0.3, 0.75)[1] == 0.75
    low, high = bounded_interval(0.1, 0.05, 10.0)
    assert (low, high) == (pytest.approx(0.05, abs=1e-4), pytest.approx(0.15, abs=1e-4))
