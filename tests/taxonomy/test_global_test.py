from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from taxonomy.change import CategoryCounts
from taxonomy.errors import InputError
from taxonomy.global_test import global_test, partition_counts


def test_the_statistic_is_pearsons_chi_square() -> None:
    target, reference = [19, 8, 4, 58], [18, 7, 9, 78]
    result = global_test(target, reference, seed=0, n_permutations=99)
    expected = chi2_contingency([target, reference], correction=False)
    assert result.statistic == pytest.approx(expected.statistic)
    assert result.degrees_of_freedom == expected.dof


def test_p_agrees_with_the_asymptotic_one_on_a_large_table() -> None:
    target, reference = [300, 250, 450], [260, 290, 450]
    result = global_test(target, reference, seed=1, n_permutations=20_000)
    asymptotic = chi2_contingency([target, reference], correction=False).pvalue
    assert result.p_value == pytest.approx(asymptotic, abs=0.015)


def test_the_published_table_does_not_differ_as_a_whole() -> None:
    target = [19, 8, 2, 3, 1, 4, 1, 1, 4, 17, 29]
    reference = [18, 7, 1, 2, 4, 9, 2, 2, 7, 25, 35]
    assert global_test(target, reference, seed=0).p_value > 0.5


def test_sides_that_differ_are_found() -> None:
    assert global_test([30, 8, 2], [5, 20, 15], seed=0).p_value == pytest.approx(1e-4)


def test_the_same_seed_gives_the_same_p() -> None:
    once, again = (global_test([9, 3, 4], [4, 8, 4], seed=5) for _ in range(2))
    assert once == again


def test_p_is_uniform_when_the_sides_are_drawn_alike() -> None:
    generator = np.random.default_rng(3)
    p_values = []
    for _ in range(200):
        target, reference = (generator.multinomial(60, [0.5, 0.3, 0.2]) for _ in range(2))
        p_values.append(global_test(target, reference, seed=0, n_permutations=199).p_value)
    assert 0.01 <= np.mean(np.array(p_values) <= 0.05) <= 0.10


@pytest.mark.parametrize(("target", "reference"), [([0, 0], [3, 4]), ([5], [3]), ([], [])])
def test_p_is_one_where_nothing_can_differ(target: list[int], reference: list[int]) -> None:
    assert global_test(target, reference, seed=0).p_value == 1.0


def test_a_partition_ends_with_the_latents_that_have_no_category() -> None:
    rows = [
        CategoryCounts("technical", 1, None, 6, 10, 2, 12),
        CategoryCounts("code-generation", 2, "technical", 4, 10, 1, 12),
        CategoryCounts("mathematics", 2, "technical", 2, 10, 1, 12),
    ]
    assert partition_counts(rows, 2) == ((4, 2, 4), (1, 1, 10))
    assert partition_counts(rows, 1) == ((6, 4), (2, 10))
    assert partition_counts([], 1) == ((), ())


def test_latents_counted_twice_are_refused() -> None:
    rows = [CategoryCounts(slug, 2, "p", 6, 10, 2, 12) for slug in ("a", "b")]
    with pytest.raises(InputError, match="counted twice"):
        global_test(*partition_counts(rows, 2), seed=0)


def test_sides_over_different_categories_are_refused() -> None:
    with pytest.raises(InputError, match="same categories"):
        global_test([1, 2], [1, 2, 3], seed=0)
