from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student_t

from taxonomy.change import change_statistics, seed_change_statistics
from taxonomy.counts import ALPHA, SEEDS, CategoryCounts, Side
from taxonomy.errors import InputError
from taxonomy.mean_shift import MeanShift, SeedShifts, mean_shifts, mean_shifts_over_seeds
from taxonomy.over_seeds import (
    LogRatio,
    SeedError,
    combine_seeds,
    log_ratio_of,
    pooled,
    seed_spreads,
)
from taxonomy.randomisation import DrawnCounts, pooled_draws, randomised_change_statistics


def test_a_log_ratio_with_its_variance() -> None:
    ratio = log_ratio_of(Side(19, 89), Side(18, 112))
    assert ratio.value == pytest.approx(math.log((19.5 / 89.5) / (18.5 / 112.5)))
    assert ratio.variance == pytest.approx(1 / 19.5 - 1 / 89.5 + 1 / 18.5 - 1 / 112.5)
    assert not ratio.is_zero
    assert log_ratio_of(Side(0, 89), Side(4, 112)).is_zero


def test_one_seed_keeps_its_own_interval() -> None:
    one = combine_seeds([LogRatio(math.log(1.5), 0.04)])
    assert one.between is None
    assert one.percent_change == pytest.approx(50)
    assert one.ci_low == pytest.approx(100 * (1.5 * math.exp(-1.959964 * 0.2) - 1))


def test_three_seeds_by_hand() -> None:
    change = combine_seeds([LogRatio(value, 0.04) for value in (0.1, 0.4, 0.7)])
    assert change.within == pytest.approx(0.04)
    assert change.between == pytest.approx(0.09)
    assert change.percent_change == pytest.approx(100 * math.expm1(0.4))
    # Cochran: the quantiles of both variances, weighted by them.
    quantile = (0.04 * 1.959964 + 0.03 * float(student_t.isf(0.025, 2))) / 0.07
    reach = quantile * math.sqrt(0.07)
    assert math.log1p(change.ci_high / 100) - 0.4 == pytest.approx(reach)
    assert change.n_same_sign == 3


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=8), st.floats(0.01, 1))
def test_more_seeds_never_narrow_the_interval_below_that_of_one(
    values: list[float], variance: float
) -> None:
    change = combine_seeds([LogRatio(value, variance) for value in values])
    width = math.log1p(change.ci_high / 100) - math.log1p(change.ci_low / 100)
    assert width >= 2 * 1.959964 * math.sqrt(variance) * (1 - 1e-6)


def test_seeds_that_disagree_widen_it_and_are_counted() -> None:
    agree = combine_seeds([LogRatio(value, 0.04) for value in (0.4, 0.4, 0.4)])
    differ = combine_seeds([LogRatio(value, 0.04) for value in (-0.6, 0.4, 1.4)])
    assert differ.ci_low < agree.ci_low
    assert differ.n_same_sign == 2


def test_nothing_to_combine_is_refused() -> None:
    with pytest.raises(InputError, match="no seeds"):
        combine_seeds([])
    with pytest.raises(InputError, match="without latents"):
        log_ratio_of(Side(0, 0), Side(1, 2))


N_TRIALS = 100


def table(*counts: tuple[int, int], total: int = 40) -> list[CategoryCounts]:
    """One seed's counts: target and reference count of categories c0, c1, ..."""
    return [
        CategoryCounts(f"c{i}", 1, None, target, total, reference, total)
        for i, (target, reference) in enumerate(counts)
    ]


def draws(random: np.random.Generator, n_seeds: int, shared: float, n: int = 400) -> list:
    """Drawn counts of two categories whose differences are `shared` between the seeds in part."""
    common = random.normal(0, 3 * math.sqrt(shared), (n, 2))
    found = []
    for _ in range(n_seeds):
        half = common + random.normal(0, 3 * math.sqrt(1 - shared), (n, 2))
        target = np.clip(np.rint(10 + half / 2), 0, 20)
        totals = np.full(n, 40.0)
        found.append(DrawnCounts(target, 20 - target, totals, totals, np.full(2, 20.0)))
    return found


def test_equal_seeds_of_equal_draws_say_what_one_says() -> None:
    own = draws(np.random.default_rng(0), 1, 1.0)[0]
    counts = table((16, 4), (11, 9))
    one = randomised_change_statistics(counts, own)
    tables = [counts] * 3
    three = randomised_change_statistics(
        pooled(tables), pooled_draws([own] * 3), ALPHA, seed_spreads(tables)
    )
    for before, after in zip(one, three, strict=True):
        assert after.over_seeds == after.n_seeds_alike == 3
        assert after.target_count == 3 * before.target_count
        assert after.verdict == before.verdict
        assert after.p_value >= before.p_value
        assert after.percent_change == pytest.approx(before.percent_change)
        assert after.difference_points_low == pytest.approx(before.difference_points_low)


def test_seeds_that_disagree_take_the_verdict_away() -> None:
    random = np.random.default_rng(1)
    drawn = pooled_draws(draws(random, 3, 0.3))

    def first(*targets: int):  # type: ignore[no-untyped-def]
        tables = [table((target, 20 - target), (10, 10)) for target in targets]
        return randomised_change_statistics(pooled(tables), drawn, ALPHA, seed_spreads(tables))[0]

    agree, differ = first(15, 15, 15), first(20, 20, 5)
    assert agree.target_count == differ.target_count
    assert (agree.verdict, differ.verdict) == ("up", "no evidence")
    assert (agree.n_seeds_alike, differ.n_seeds_alike) == (3, 2)
    assert differ.difference_points_low < 0 < agree.difference_points_low


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 0.6, 1.0])
def test_the_test_over_seeds_keeps_its_level(shared: float) -> None:
    """Counts that are one more draw of the same chance: at most 5% of them are called."""
    random = np.random.default_rng(2)
    called = 0
    for _ in range(N_TRIALS):
        drawn = draws(random, 3, shared, n=200)
        tables = [
            table(*((int(each.target[0, i]), int(each.reference[0, i])) for i in range(2)))
            for each in drawn
        ]
        rows = randomised_change_statistics(
            pooled(tables), pooled_draws(drawn), ALPHA, seed_spreads(tables)
        )
        called += rows[0].p_value < ALPHA
    assert called / N_TRIALS <= 0.09


def test_draws_of_other_numbers_are_refused() -> None:
    random = np.random.default_rng(3)
    first, second = draws(random, 1, 1.0, n=10)[0], draws(random, 1, 1.0, n=11)[0]
    with pytest.raises(InputError, match="unequally often"):
        pooled_draws([first, second])


def test_counts_without_draws_are_no_independent_latents() -> None:
    """Three times the same counts show no more than once: other seeds are no new models."""
    counts = table((12, 4), (0, 0), (1, 0))
    (one, *_), three = change_statistics(counts), seed_change_statistics([counts] * 3)
    assert [row.test for row in three] == [SEEDS] * 3
    assert three[0].target_count == 36
    assert three[0].percent_change == pytest.approx(one.percent_change)
    width = math.log1p(three[0].ci_high / 100) - math.log1p(three[0].ci_low / 100)
    assert width >= 2 * 1.96 * math.sqrt(1 / 12.5 - 1 / 40.5 + 1 / 4.5 - 1 / 40.5) - 1e-3
    assert (three[1].p_value, three[1].ci_low) == (1.0, None)
    assert three[2].verdict == "too few to say"
    assert (three[2].printed_change, three[2].ci_high) == ("new", None)


def test_spread_of_a_mean_is_its_variance_over_the_seeds() -> None:
    shares = [10, 14, 18]
    (spread,) = seed_spreads([table((count, 4)) for count in shares])
    assert spread.difference == pytest.approx(float(np.var(np.array(shares) / 40, ddof=1)) / 3)
    assert spread.n_alike == 3


def test_error_over_seeds_has_students_t_of_few_seeds() -> None:
    error = SeedError(0.0, 0.04, 3)
    assert error.reach() == pytest.approx(float(student_t.isf(0.025, 2)) * 0.2)
    assert SeedError(0.04, 0.0, 3, 7).reach() == pytest.approx(student_t.isf(0.025, 7) * 0.2)


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.001, 0.9))
def test_p_is_that_of_the_interval_that_ends_at_0(
    within: float, between: float, alpha: float
) -> None:
    error = SeedError(within, between, 3)
    if error.error > 1e-6:
        assert error.p_of(error.reach(alpha)) == pytest.approx(alpha, rel=1e-4)
    assert error.p_of(0.0) == 1.0


def shifts_of(
    random: np.random.Generator, n_seeds: int, between: float, effect: float = 0.0
) -> list[SeedShifts]:
    """Shifts of 60 latents in 20 blocks, 12 of the first of two categories."""
    blocks = random.normal(0, 0.02, (20, 1))
    found = []
    for _ in range(n_seeds):
        latents = random.normal(0, 0.05, 60)
        members = np.zeros((60, 2), dtype=bool)
        members[:12, 0] = members[12:, 1] = True
        by_block = latents + random.normal(0, 0.05, (20, 60)) + blocks
        by_block[:, :12] += effect + random.normal(0, between)
        total = by_block.sum(axis=0)
        left_out = (total - by_block) / 19
        shifts = np.vstack([total / 20, left_out])
        found.append(SeedShifts(shifts, members, np.ones(60, dtype=bool)))
    return found


def over(seeds: list[SeedShifts]) -> MeanShift:
    return mean_shifts_over_seeds(seeds, [1, 1])[0]


def test_the_shift_over_one_seed_is_that_of_the_seed() -> None:
    (seed,) = shifts_of(np.random.default_rng(0), 1, 0.0)
    assert mean_shifts_over_seeds([seed], [1, 1]) == mean_shifts(seed.shifts, seed.members, [1, 1])


def test_the_same_seed_three_times_shifts_no_more_surely() -> None:
    (seed,) = shifts_of(np.random.default_rng(0), 1, 0.0)
    one, three = over([seed]), over([seed] * 3)
    assert three.relative_shift == pytest.approx(one.relative_shift)
    assert three.relative_shift_low == pytest.approx(one.relative_shift_low)
    assert (three.n_shifted, three.n_shifts_alike) == (36, 3)


def test_a_seed_without_the_category_is_left_out() -> None:
    seeds = shifts_of(np.random.default_rng(4), 3, 0.0, effect=0.2)
    empty = SeedShifts(seeds[2].shifts, np.zeros((60, 2), dtype=bool), seeds[2].counted)
    assert over([*seeds[:2], empty]).relative_shift == over(seeds[:2]).relative_shift


@pytest.mark.slow
@pytest.mark.parametrize("between", [0.0, 0.03, 0.1])
def test_the_shift_over_seeds_keeps_its_level(between: float) -> None:
    random = np.random.default_rng(5)
    p_values = [over(shifts_of(random, 3, between)).relative_shift_p for _ in range(N_TRIALS)]
    assert float(np.mean(np.array(p_values) < ALPHA)) <= 0.09


def test_a_shift_that_all_seeds_have_is_called() -> None:
    random = np.random.default_rng(6)
    found = [over(shifts_of(random, 3, 0.01, effect=0.1)) for _ in range(20)]
    assert sum(each.relative_shift_p < ALPHA for each in found) >= 18
