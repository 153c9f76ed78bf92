from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taxonomy.change import WeightedLatents, weighted_change_statistics
from taxonomy.counts import CategoryCounts
from taxonomy.errors import InputError
from taxonomy.intervals import fisher_p
from taxonomy.randomisation import (
    DrawnCounts,
    count_draws,
    pooled_draws,
    randomised_change_statistics,
    weighted_randomised_change_statistics,
)

N_LATENTS, PER_SIDE = 200, 40


def row(category: str, target: int, reference: int, total: int = PER_SIDE) -> CategoryCounts:
    return CategoryCounts(category, 0, None, target, total, reference, total)


def drawn(differences: list[int], total: int = PER_SIDE, mean: int = 5) -> DrawnCounts:
    """One category whose drawn counts differ by the given numbers."""
    n = len(differences)
    values = np.array(differences, dtype=float)[:, None]
    totals = np.full(n, float(total))
    return DrawnCounts(
        mean + np.maximum(values, 0),
        mean + np.maximum(-values, 0),
        totals,
        totals,
        np.array([float(N_LATENTS)]),
    )


@dataclass(frozen=True)
class Trial:
    """A table, its sides as they are, and its drawn sides."""

    table: list[CategoryCounts]
    sides: tuple[np.ndarray, np.ndarray]
    draws: list[tuple[np.ndarray, np.ndarray]]
    members: np.ndarray

    def drawn(self, weights: np.ndarray | None = None) -> DrawnCounts:
        return count_draws(
            np.stack([draw[0] for draw in self.draws]),
            np.stack([draw[1] for draw in self.draws]),
            self.members,
            np.ones(N_LATENTS, dtype=bool),
            weights,
        )

    def latents(self, weights: np.ndarray) -> list[WeightedLatents]:
        return [
            WeightedLatents(
                weights[side], {f"c{c}": np.flatnonzero(self.members[side, c]) for c in range(5)}
            )
            for side in self.sides
        ]


def correlated_trial(rng: np.random.Generator, n_draws: int = 199) -> Trial:
    """A table of the null: latents of a category take the same sign in most documents."""
    category = np.arange(N_LATENTS) % 5
    n_documents = 60
    common = rng.normal(size=(5, n_documents))
    contributions = common[category] + 0.7 * rng.normal(size=(N_LATENTS, n_documents))
    members = category[:, None] == np.arange(5)

    def sides(signs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(contributions @ signs, kind="stable").astype(np.int32)
        return order[-PER_SIDE:], order[:PER_SIDE]

    draws = [sides(rng.choice((-1.0, 1.0), n_documents)) for _ in range(n_draws)]
    target, reference = sides(np.ones(n_documents))
    table = [
        row(f"c{c}", int(members[target, c].sum()), int(members[reference, c].sum()))
        for c in range(5)
    ]
    return Trial(table, (target, reference), draws, members)


def test_p_is_the_share_of_draws_at_least_as_far_apart() -> None:
    (change,) = randomised_change_statistics([row("a", 9, 5)], drawn([0, 4, -4, 5, 3, 1, -2, 0, 1]))
    assert change.p_value == pytest.approx((1 + 3) / (1 + 9))
    assert change.test == "documents"
    assert change.family_p == change.p_value, "the only row is its own family"


def test_interval_excludes_no_change_where_p_is_small_and_only_there() -> None:
    rng = np.random.default_rng(0)
    draws = drawn(rng.integers(-6, 7, 400).tolist())
    near, far = (
        randomised_change_statistics([row("a", target, 5)], draws)[0] for target in (8, 15)
    )
    assert near.p_value > 0.05
    assert near.difference_points_low is not None
    assert near.difference_points_low < 0
    assert near.verdict == "no evidence"
    assert far.p_value == pytest.approx(1 / 401)
    assert far.difference_points_low is not None
    assert far.difference_points_low > 0
    assert far.ci_low is not None
    assert far.ci_low > 0
    assert far.verdict == "up"


def test_percent_interval_has_no_upper_end_without_a_reference_and_starts_at_minus_100() -> None:
    draws = drawn([0, 1, -1, 2, -2] * 20)
    only_target, only_reference, neither = (
        randomised_change_statistics([row("a", *counts)], draws)[0]
        for counts in ((9, 0), (0, 9), (0, 0))
    )
    assert only_target.ci_high is None
    assert only_target.ci_low is not None
    assert only_reference.ci_low == -100
    assert only_reference.ci_high is not None
    assert only_reference.ci_high < 0
    assert (neither.ci_low, neither.p_value, neither.family_p) == (None, 1, 1)


def test_a_category_of_few_latents_is_too_few_to_say() -> None:
    draws = drawn([0, 1, -1, 2, -2] * 20)
    (change,) = randomised_change_statistics([row("a", 2, 0)], draws)
    assert change.verdict == "too few to say"


def test_detectable_change_is_the_smallest_that_lies_beyond_the_reach() -> None:
    draws = drawn([0] * 80 + [3, -3] * 10)
    (change,) = randomised_change_statistics([row("a", 10, 10)], draws)
    assert change.detectable_rise == pytest.approx(40)
    assert change.detectable_fall == pytest.approx(-40)
    (far,) = randomised_change_statistics([row("a", 14, 10)], draws)
    assert far.p_value < 0.05


def test_count_draws_counts_members_and_denominators_and_skips_empty_places() -> None:
    members = np.array([[1, 0], [1, 1], [0, 0], [0, 1]], dtype=bool)
    counted = np.array([1, 1, 1, 0], dtype=bool)
    counts = count_draws(
        np.array([[0, 1], [2, -1]], dtype=np.int32),
        np.array([[3, 2], [3, 1]], dtype=np.int32),
        members,
        counted,
    )
    assert counts.target.tolist() == [[2, 1], [0, 0]]
    assert counts.reference.tolist() == [[0, 1], [1, 2]]
    assert counts.target_total.tolist() == [2, 1]
    assert counts.reference_total.tolist() == [1, 1]


def test_family_p_is_never_below_the_p_of_a_row() -> None:
    trial = correlated_trial(np.random.default_rng(1))
    for change in randomised_change_statistics(trial.table, trial.drawn()):
        assert change.family_p is not None
        assert change.family_p >= change.p_value - 0.02


@pytest.mark.slow
def test_trap_one_table_in_twenty_calls_a_change_under_the_null_where_fisher_calls_most() -> None:
    rng = np.random.default_rng(2)
    n_tables, false_calls, fisher_calls = 120, 0, 0
    for _ in range(n_tables):
        trial = correlated_trial(rng, n_draws=99)
        changes = randomised_change_statistics(trial.table, trial.drawn())
        false_calls += any(
            change.family_p is not None and change.family_p < 0.05 for change in changes
        )
        fisher_calls += any(fisher_p(each.target, each.reference) < 0.05 for each in trial.table)
    assert false_calls / n_tables <= 0.10
    assert fisher_calls / n_tables >= 0.5


def test_latents_that_all_weigh_the_same_count_as_without_weights() -> None:
    trial = correlated_trial(np.random.default_rng(3))
    ones = np.ones(N_LATENTS)
    plain = randomised_change_statistics(trial.table, trial.drawn())
    weighted = weighted_randomised_change_statistics(
        trial.table, *trial.latents(ones), trial.drawn(ones)
    )
    for one, other in zip(plain, weighted, strict=True):
        for name in ("p_value", "q_value", "family_p", "percent_change", "ci_low", "ci_high"):
            assert getattr(one, name) == pytest.approx(getattr(other, name)), name
        assert other.test == "documents"
        assert other.detectable_rise is None, "no count says what a weight would find"


@pytest.mark.slow
def test_trap_weighted_shares_keep_the_level_where_the_score_test_does_not() -> None:
    rng = np.random.default_rng(4)
    randomised: list[float] = []
    scored: list[float] = []
    for _ in range(120):
        trial = correlated_trial(rng, n_draws=99)
        weights = rng.lognormal(sigma=0.7, size=N_LATENTS)
        latents = trial.latents(weights)
        changes = weighted_randomised_change_statistics(trial.table, *latents, trial.drawn(weights))
        randomised += [change.p_value for change in changes]
        scored += [each.p_value for each in weighted_change_statistics(trial.table, *latents)]
    assert (np.array(randomised) < 0.05).mean() <= 0.07
    assert (np.array(scored) < 0.05).mean() >= 0.2


def test_trap_draws_that_are_stretched_stay_so_when_seeds_are_added_up() -> None:
    plain = drawn([0, 4, -4, 5, 3, 1, -2, 0, 1])
    one, two = (replace(plain, stretch=np.array([factor])) for factor in (2.0, 3.0))
    assert pooled_draws([plain]).stretch is None
    assert np.array_equal(pooled_draws([one]).differences, one.differences)
    pooled = pooled_draws([plain, one, two])
    assert np.allclose(pooled.differences, 3 * plain.differences)


@given(st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=50, deadline=None)
def test_exchanging_the_sides_mirrors_the_row(target: int, reference: int) -> None:
    rng = np.random.default_rng(5)
    differences = rng.integers(-6, 7, 99)
    both = np.concatenate([differences, -differences]).tolist()
    one = randomised_change_statistics([row("a", target, reference)], drawn(both))[0]
    other = randomised_change_statistics([row("a", reference, target)], drawn(both))[0]
    assert one.p_value == other.p_value
    if one.difference_points is not None and other.difference_points is not None:
        assert one.difference_points == pytest.approx(-other.difference_points)
    if one.ci_low is not None and other.ci_high is not None and one.ci_low > -100:
        assert math.log1p(one.ci_low / 100) == pytest.approx(-math.log1p(other.ci_high / 100))


def test_draws_of_other_categories_are_refused() -> None:
    with pytest.raises(InputError, match="1 categories for a table of 2"):
        randomised_change_statistics([row("a", 1, 2), row("b", 1, 2)], drawn([0, 1]))
