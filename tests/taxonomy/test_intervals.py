from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from taxonomy.counts import Interval, Side
from taxonomy.errors import InputError
from taxonomy.intervals import (
    invert_score_test,
    newcombe_interval,
    ratio_interval,
    ratio_score,
    wilson_interval,
)


@st.composite
def sides(draw: st.DrawFn, max_total: int = 150) -> Side:
    total = draw(st.integers(1, max_total))
    return Side(draw(st.integers(0, total)), total)


def defined(interval: Interval | None) -> Interval:
    assert interval is not None
    return interval


def test_wilson_matches_the_published_example() -> None:
    interval = defined(wilson_interval(Side(81, 263)))
    assert (interval.low, interval.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_wilson_ends_at_the_edges() -> None:
    assert defined(wilson_interval(Side(0, 20))).low == 0.0
    assert defined(wilson_interval(Side(20, 20))).high == 1.0
    assert wilson_interval(Side(0, 0)) is None


def test_newcombe_matches_the_published_example() -> None:
    interval = defined(newcombe_interval(Side(56, 70), Side(48, 80)))
    assert (interval.low, interval.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_ratio_with_a_zero_on_either_side_matches_the_known_bounds() -> None:
    assert defined(ratio_interval(Side(0, 89), Side(4, 112))).high == pytest.approx(1.19, abs=0.005)
    assert defined(ratio_interval(Side(3, 89), Side(0, 112))).low == pytest.approx(0.99, abs=0.005)


def test_ratio_without_any_latent_is_undefined() -> None:
    assert ratio_interval(Side(0, 89), Side(0, 112)) is None
    assert ratio_interval(Side(0, 0), Side(3, 112)) is None
    assert ratio_interval(Side(3, 89), Side(0, 0)) is None


@pytest.mark.parametrize(
    ("target", "reference"),
    [
        (Side(89, 89), Side(112, 112)),
        (Side(5, 89), Side(112, 112)),
        (Side(89, 89), Side(5, 112)),
        (Side(88, 89), Side(112, 112)),
        (Side(0, 89), Side(112, 112)),
        (Side(1, 1), Side(1, 1)),
        (Side(1, 1), Side(1, 2)),
        (Side(1, 1), Side(0, 1)),
    ],
)
def test_full_sides_get_an_interval_around_the_estimate(target: Side, reference: Side) -> None:
    interval = defined(ratio_interval(target, reference))
    estimate = target.share / reference.share if reference.count else math.inf
    assert interval.low <= estimate <= interval.high
    assert interval.low < interval.high


@settings(max_examples=150, deadline=None)
@given(sides(), sides())
def test_the_library_and_the_inverted_score_test_agree(target: Side, reference: Side) -> None:
    if target.count + reference.count == 0:
        return
    closed = defined(ratio_interval(target, reference))
    searched = invert_score_test(target, reference)
    assert closed.low == pytest.approx(searched.low, rel=1e-4, abs=1e-9)
    assert closed.high == pytest.approx(searched.high, rel=1e-4)


@settings(max_examples=150, deadline=None)
@given(sides(), sides())
def test_swapping_the_sides_inverts_the_ratio(target: Side, reference: Side) -> None:
    forward, backward = ratio_interval(target, reference), ratio_interval(reference, target)
    if forward is None:
        assert backward is None
        return
    back = defined(backward)
    assert forward.low == pytest.approx(0.0 if math.isinf(back.high) else 1 / back.high, rel=1e-4)
    if math.isinf(forward.high):
        assert back.low == 0.0
    else:
        assert forward.high == pytest.approx(1 / back.low, rel=1e-4)


@settings(max_examples=100, deadline=None)
@given(sides(), sides())
def test_one_more_target_latent_never_lowers_the_interval(target: Side, reference: Side) -> None:
    if target.is_full or target.count + reference.count == 0:
        return
    more = Side(target.count + 1, target.total)
    before, after = (
        defined(ratio_interval(target, reference)),
        defined(ratio_interval(more, reference)),
    )
    assert after.low >= before.low * (1 - 1e-4)
    assert after.high >= before.high * (1 - 1e-4)


@settings(max_examples=100, deadline=None)
@given(sides(), sides(), st.floats(0.05, 20), st.floats(1.0, 3.0))
def test_the_score_falls_as_the_ratio_grows(
    target: Side, reference: Side, ratio: float, factor: float
) -> None:
    if target.count + reference.count == 0:
        return
    lower, upper = (
        ratio_score(target, reference, ratio),
        ratio_score(target, reference, ratio * factor),
    )
    assert upper <= lower + 1e-6 * (1 + abs(lower))


@pytest.mark.parametrize(("p_target", "p_reference"), [(0.20, 0.16), (0.06, 0.06), (0.01, 0.03)])
def test_the_ratio_interval_covers_the_truth_as_often_as_it_says(
    p_target: float, p_reference: float
) -> None:
    """Sums over all likely tables, so that the coverage is exact and not simulated."""
    a, b = np.arange(40), np.arange(45)
    weights = np.outer(binom.pmf(a, 89, p_target), binom.pmf(b, 112, p_reference))
    weights[0, 0] = 0.0
    truth, covered = p_target / p_reference, 0.0
    likely = np.argwhere(weights > 1e-4)
    for i, j in likely:
        interval = defined(ratio_interval(Side(int(i), 89), Side(int(j), 112)))
        covered += weights[i, j] * (interval.low <= truth <= interval.high)
    assert 0.93 <= covered / weights[likely[:, 0], likely[:, 1]].sum() <= 0.98


def test_a_count_outside_its_total_is_refused() -> None:
    with pytest.raises(InputError, match="a count lies between 0 and its total"):
        Side(-1, 10)
