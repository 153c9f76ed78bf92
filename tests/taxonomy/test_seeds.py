from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student_t

from taxonomy.counts import Side
from taxonomy.errors import InputError
from taxonomy.stability import LogRatio, combine_seeds, log_ratio_of


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
    # Satterthwaite: (m - 1) (1 + W / (B / m))^2 = 2 (1 + 0.04 / 0.03)^2.
    assert change.degrees_of_freedom == pytest.approx(2 * (1 + 4 / 3) ** 2)
    reach = float(student_t.isf(0.025, 2 * (7 / 3) ** 2)) * math.sqrt(0.04 + 0.09 / 3)
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
