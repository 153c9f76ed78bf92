from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import PermutationMethod, chi2_contingency

from taxonomy.change import CategoryCounts
from taxonomy.errors import InputError
from taxonomy.intervals import global_test, partition_counts


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


TWO_LEVELS = [
    CategoryCounts("technical", 1, None, 6, 10, 2, 12),
    CategoryCounts("code-generation", 2, "technical", 4, 10, 1, 12),
    CategoryCounts("mathematics", 2, "technical", 2, 10, 1, 12),
]


@pytest.mark.parametrize(
    ("rows", "target", "reference"),
    [
        pytest.param(TWO_LEVELS, (0, 4, 2, 4), (0, 1, 1, 10), id="groups-with-leaves"),
        pytest.param(
            [
                CategoryCounts("a", 1, None, 6, 10, 2, 12),
                CategoryCounts("b", 1, None, 1, 10, 4, 12),
            ],
            (6, 1, 3),
            (2, 4, 6),
            id="flat",
        ),
        pytest.param(
            [*TWO_LEVELS, CategoryCounts("alone", 1, None, 3, 10, 7, 12)],
            (0, 4, 2, 3, 1),
            (0, 1, 1, 7, 3),
            id="ungrouped-leaf",
        ),
        pytest.param(
            [CategoryCounts("technical", 1, None, 9, 10, 4, 12), *TWO_LEVELS[1:]],
            (3, 4, 2, 1),
            (2, 1, 1, 8),
            id="group-with-latents-of-its-own",
        ),
        pytest.param(
            [*TWO_LEVELS[1:], TWO_LEVELS[0]], (4, 2, 0, 4), (1, 1, 0, 10), id="children-first"
        ),
        pytest.param(
            [CategoryCounts("a", 1, None, 10, 10, 12, 12)], (10, 0), (12, 0), id="all-in-one"
        ),
        pytest.param([], (), (), id="no-category"),
    ],
)
def test_a_partition_has_every_latent_in_one_cell(
    rows: list[CategoryCounts], target: tuple[int, ...], reference: tuple[int, ...]
) -> None:
    assert partition_counts(rows) == (target, reference)
    for cells, total in ((target, 10), (reference, 12)):
        assert sum(cells) == (total if rows else 0)


def test_a_leaf_without_a_group_is_seen_by_the_test() -> None:
    """55 against 5 of 100: scipy's own permutation of the latents between the sides agrees."""
    rows = [
        CategoryCounts("group", 1, None, 20, 100, 20, 100),
        CategoryCounts("one", 2, "group", 10, 100, 10, 100),
        CategoryCounts("other", 2, "group", 10, 100, 10, 100),
        CategoryCounts("alone", 1, None, 55, 100, 5, 100),
    ]
    target, reference = partition_counts(rows)
    found = global_test(target, reference, seed=0)
    table = [[55, 10, 10, 25], [5, 10, 10, 75]]
    assert found.statistic == pytest.approx(chi2_contingency(table, correction=False).statistic)
    drawn = chi2_contingency(
        table, correction=False, method=PermutationMethod(n_resamples=9_999, rng=1)
    )
    assert found.p_value == pytest.approx(drawn.pvalue) == pytest.approx(1e-4)


def test_latents_counted_twice_are_refused() -> None:
    rows = [CategoryCounts(slug, 2, "p", 6, 10, 2, 12) for slug in ("a", "b")]
    with pytest.raises(InputError, match="counted twice"):
        global_test(*partition_counts(rows), seed=0)


def test_sides_over_different_categories_are_refused() -> None:
    with pytest.raises(InputError, match="same categories"):
        global_test([1, 2], [1, 2, 3], seed=0)
