from __future__ import annotations

import numpy as np
import pytest

from taxonomy.change import (
    CategoryCounts,
    WeightedLatents,
    change_statistics,
    effective_side,
    kish_number,
    weighted_change_statistics,
    widened_alpha,
)
from taxonomy.counts import ALPHA
from taxonomy.errors import InputError
from taxonomy.intervals import ratio_interval


def counts_of(a: int, n: int, b: int, m: int) -> list[CategoryCounts]:
    return [CategoryCounts("safety", 2, "behaviour", a, n, b, m)]


def side(weights: list[float], rows: list[int]) -> WeightedLatents:
    return WeightedLatents(np.array(weights), {"safety": np.array(rows, dtype=np.int64)})


def test_equal_weights_give_the_unweighted_shares_and_nearly_the_interval() -> None:
    counts = counts_of(19, 89, 18, 112)
    target, reference = side([0.3] * 89, list(range(19))), side([2.0] * 112, list(range(18)))
    (weighted,) = weighted_change_statistics(counts, target, reference)
    (plain,) = change_statistics(counts)
    assert weighted.percent_change == pytest.approx(plain.percent_change)
    # Linearised variances divide by n - 1, and Student's t is a little wider than the normal.
    assert weighted.target_effective == pytest.approx(88.0)
    assert weighted.ci_low == pytest.approx(plain.ci_low, abs=1.5)
    assert weighted.ci_high == pytest.approx(plain.ci_high, abs=5.0)
    assert weighted.test == "score"
    assert weighted.verdict == "no evidence"


def test_a_share_is_the_weight_of_the_category_over_all_weight() -> None:
    counts = counts_of(1, 3, 1, 2)
    target, reference = side([2.0, 1.0, 1.0], [0]), side([1.0, 4.0], [0])
    (change,) = weighted_change_statistics(counts, target, reference)
    assert change.target_share == pytest.approx(0.5)
    assert change.reference_share == pytest.approx(0.2)
    assert change.percent_change == pytest.approx(150.0)
    assert change.target_count == 1


def test_one_dominant_latent_is_hardly_a_sample() -> None:
    weights = np.array([100.0] + [1.0] * 99)
    assert kish_number(weights) == pytest.approx(199**2 / 10_099)
    assert effective_side(weights, np.array([0])).total < 4


def test_p_and_interval_agree_about_zero() -> None:
    generator = np.random.default_rng(3)
    for _ in range(60):
        sides = []
        for n_latents in (60, 70):
            weights = np.exp(generator.normal(0, 0.8, n_latents))
            sides.append((weights, np.flatnonzero(generator.random(n_latents) < 0.2)))
        (target, inside), (reference, outside) = sides
        counts = counts_of(len(inside), 60, len(outside), 70)
        (change,) = weighted_change_statistics(
            counts,
            WeightedLatents(target, {"safety": inside}),
            WeightedLatents(reference, {"safety": outside}),
        )
        assert change.ci_low is not None
        assert change.ci_high is not None
        excludes_zero = change.ci_low > 0 or change.ci_high < 0
        if abs(change.p_value - 0.05) > 0.005:
            assert excludes_zero == (change.p_value < 0.05)


def test_zero_counts_are_named_and_need_no_library() -> None:
    (new,) = weighted_change_statistics(
        counts_of(2, 20, 0, 20), side([1.0] * 20, [0, 1]), side([1.0] * 20, [])
    )
    assert (new.situation, new.percent_change, new.printed_change) == (
        "only on the target side", None, "new",
    )  # fmt: skip
    (none,) = weighted_change_statistics(
        counts_of(0, 20, 0, 20), side([1.0] * 20, []), side([1.0] * 20, [])
    )
    assert none.situation == "on neither side"
    assert none.p_value == 1.0
    assert none.ci_low is none.ci_high is None
    (silent,) = weighted_change_statistics(
        counts_of(2, 20, 1, 20), side([0.0] * 20, [0, 1]), side([1.0] * 20, [0])
    )
    assert silent.target_share is None
    assert silent.percent_change is None


def test_the_whole_side_is_a_share_of_one() -> None:
    (change,) = weighted_change_statistics(
        counts_of(5, 5, 2, 20), side([3.0, 1.0, 1.0, 1.0, 0.5], [0, 1, 2, 3, 4]),
        side([1.0] * 20, [0, 1]),
    )  # fmt: skip
    assert change.situation == "every latent of a side"
    assert change.target_share == 1.0
    assert change.ci_low is not None
    assert change.ci_high is not None
    assert change.ci_low < 900 < change.ci_high


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(InputError, match="0 or more"):
        side([1.0, -1.0], [0])


def test_the_interval_covers_where_weights_have_nothing_to_do_with_the_category() -> None:
    generator = np.random.default_rng(11)
    hits, repeats = 0, 600
    for _ in range(repeats):
        sides = []
        for n_latents, share in ((89, 0.2), (112, 0.1)):
            weights = np.exp(generator.normal(0, 0.8, n_latents))
            inside = np.flatnonzero(generator.random(n_latents) < share)
            sides.append(effective_side(weights, inside))
        interval = ratio_interval(*sides, widened_alpha(ALPHA, *sides))
        hits += interval is not None and interval.low <= 2 <= interval.high
    assert 0.93 <= hits / repeats <= 0.99
