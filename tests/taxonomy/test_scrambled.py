"""A shift is called where it lies outside of what scrambled fine-tunes show."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from taxonomy.randomisation import DrawnCounts
from taxonomy.scrambled import (
    LEAST_EFFECTIVE,
    WeightedShift,
    moderated,
    stretched,
    weighted_shifts,
)

N_LATENTS, N_CATEGORIES, K = 600, 12, 8
CATEGORY = np.arange(N_LATENTS) % N_CATEGORIES
MEMBERS = CATEGORY[:, None] == np.arange(N_CATEGORIES)
EVERY = np.ones(N_LATENTS, dtype=bool)


def fine_tunes(random: np.random.Generator, n: int) -> np.ndarray:
    """(n, F) shifts without meaning: biased by category, and alike within a category."""
    bias = np.linspace(-0.01, 0.01, N_CATEGORIES)[CATEGORY]
    common = random.normal(scale=0.004, size=(n, N_CATEGORIES))[:, CATEGORY]
    return bias + common + random.normal(scale=0.02, size=(n, N_LATENTS))


def compared(
    true: np.ndarray, scrambled: np.ndarray, squares: np.ndarray | None = None
) -> list[WeightedShift]:
    weights = np.ones(N_LATENTS) if squares is None else squares
    return weighted_shifts(true, scrambled, weights, MEMBERS, EVERY, [0] * N_CATEGORIES)


def test_one_more_scrambled_fine_tune_is_called_no_more_often_than_the_level_allows() -> None:
    random = np.random.default_rng(0)
    p_values, tables = [], 0
    for _ in range(400):
        rows = fine_tunes(random, 1 + K)
        squares = random.lognormal(size=N_LATENTS)
        found = compared(rows[0], rows[1:], squares)
        p_values += [row.weighted_shift_p for row in found]
        tables += any(
            row.weighted_shift_q is not None and row.weighted_shift_q < 0.05 for row in found
        )
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.055
    assert tables / 400 <= 0.08


def test_variances_that_scatter_by_chance_alone_become_their_trend() -> None:
    random = np.random.default_rng(5)
    covariate = np.linspace(0, 3, 40)
    true = np.exp(1 - covariate)
    seen = true * random.chisquare(7, 40) / 7
    drawn, freedom = moderated(seen, covariate, 7)
    assert freedom > 50
    assert np.abs(np.log(drawn / true)).max() < 0.35 < np.abs(np.log(seen / true)).max()


def test_variances_that_differ_for_other_reasons_stay_nearly_as_they_are() -> None:
    random = np.random.default_rng(6)
    seen = np.exp(random.normal(scale=3, size=40)) * random.chisquare(7, 40) / 7
    drawn, freedom = moderated(seen, np.zeros(40), 7)
    assert 7 < freedom < 9
    assert np.corrcoef(np.log(drawn), np.log(seen))[0, 1] > 0.95


def test_few_variances_are_not_moderated() -> None:
    seen = np.array([1.0, 2.0, 8.0])
    drawn, freedom = moderated(seen, np.zeros(3), 7)
    assert drawn.tolist() == seen.tolist()
    assert freedom == 7


def test_a_category_that_is_turned_up_is_called_and_the_bias_of_the_others_is_not() -> None:
    rows = fine_tunes(np.random.default_rng(1), 1 + K)
    rows[0] += np.where(CATEGORY == 2, 0.05, 0.0)
    found = compared(rows[0], rows[1:])
    assert (found[2].weighted_shift_q or 1.0) < 0.01
    assert found[2].weighted_shift is not None
    assert found[2].scrambled_high is not None
    assert found[2].weighted_shift > found[2].scrambled_high
    assert all((row.weighted_shift_q or 0.0) > 0.05 for i, row in enumerate(found) if i in (0, 11))


def test_the_mean_is_that_of_all_activation_so_rare_latents_hardly_count() -> None:
    squares = np.where(np.arange(N_LATENTS) < 120, 1000.0, 1.0)
    true = np.where(np.arange(N_LATENTS) < 120, 0.1, -0.1)
    (row, *_) = compared(true, fine_tunes(np.random.default_rng(2), K), squares)
    own, others = CATEGORY == 0, CATEGORY != 0
    expected = np.average(true[own], weights=squares[own]) - np.average(
        true[others], weights=squares[others]
    )
    assert row.weighted_shift == pytest.approx(expected)


def test_trap_a_category_that_rests_on_one_latent_is_not_compared() -> None:
    rows = fine_tunes(np.random.default_rng(7), 1 + K)
    squares = np.ones(N_LATENTS)
    squares[0] = 1000.0
    rows[0, 0] = 1.0
    found = compared(rows[0], rows[1:], squares)
    assert found[0] == WeightedShift()
    assert all(row.weighted_shift is not None for row in found[1:])


def test_trap_no_call_rests_on_one_latent() -> None:
    rows = fine_tunes(np.random.default_rng(8), 1 + K)
    squares = np.ones(N_LATENTS)
    squares[0] = 10.0
    rows[0, 0] = 1.0
    (row, *_) = compared(rows[0], rows[1:], squares)
    assert row.weighted_shift is not None
    assert row.scrambled_high is not None
    assert row.weighted_shift > row.scrambled_high
    assert (row.weighted_shift_q or 0.0) > 0.05


def test_unknown_latents_are_left_out_and_small_categories_say_nothing() -> None:
    rows = fine_tunes(np.random.default_rng(3), 1 + K)
    own = np.flatnonzero(CATEGORY == 0)
    rows[0, own[:3]] = np.nan
    rows[2, own[3]] = np.nan
    left = rows.copy()
    left[:, own[:4]] = 99.0
    counted = EVERY.copy()
    counted[own[:4]] = False
    squares = np.ones(N_LATENTS)
    first = compared(rows[0], rows[1:])
    second = weighted_shifts(left[0], left[1:], squares, MEMBERS, counted, [0] * N_CATEGORIES)
    assert first == second
    counted[own[int(LEAST_EFFECTIVE) - 1 :]] = False
    few = weighted_shifts(left[0], left[1:], squares, MEMBERS, counted, [0] * N_CATEGORIES)
    assert few[0] == WeightedShift()
    assert few[1].weighted_shift is not None


def drawn_counts(differences: list[list[float]]) -> DrawnCounts:
    """Draws (R, C) with these differences of shares, on sides of 100."""
    target = 50 + 50 * np.array(differences)
    total = np.full(len(target), 100.0)
    n_members = np.full(target.shape[1], 100.0)
    return DrawnCounts(target, 100 - target, total, total, n_members)


def test_draws_are_stretched_to_where_a_further_scrambled_fine_tune_lies() -> None:
    draws = drawn_counts([[x, x] for x in np.linspace(-0.1, 0.1, 201)])
    scrambled = drawn_counts([[0.2, 0.01], [0.25, 0.0], [0.15, -0.01], [0.2, 0.0]])
    found = stretched(draws, scrambled)
    spread = np.std([0.2, 0.25, 0.15, 0.2], ddof=1) * np.sqrt(1 + 1 / 4)
    reach = 0.2 + stats.t.isf(0.025, 3) * spread
    assert np.quantile(np.abs(found.differences[:, 0]), 0.95) == pytest.approx(reach, rel=1e-6)
    assert np.array_equal(found.differences[:, 1], draws.differences[:, 1])
    assert np.abs(found.log_ratios[:, 0]).max() > np.abs(draws.log_ratios[:, 0]).max()


def test_one_scrambled_fine_tune_stretches_nothing() -> None:
    draws = drawn_counts([[0.1], [-0.1], [0.0]])
    assert stretched(draws, drawn_counts([[0.4]])) is draws
