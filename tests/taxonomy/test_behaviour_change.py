"""Paired changes of behaviour: against published tables, closed forms and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar

from taxonomy.behaviour_change import (
    PairedAnswers,
    behaviour_changes,
    paired_interval,
    sign_agreement,
    sign_flip_p,
)
from taxonomy.errors import InputError


def pairs(both: int, only_target: int, only_reference: int, neither: int) -> PairedAnswers:
    """One answer per prompt, by the cells of the paired table."""
    rows = [(1, 1)] * both + [(1, 0)] * only_target + [(0, 1)] * only_reference + [(0, 0)] * neither
    table = np.array(rows, dtype=np.float64)
    return PairedAnswers("safety", table[:, :1], table[:, 1:])


def test_demo_table_of_refusals() -> None:
    """24 prompts, one refused before, six after: 4% -> 25%."""
    (change,) = behaviour_changes([pairs(1, 5, 0, 18)])
    assert (change.n_prompts, change.n_more, change.n_less) == (24, 5, 0)
    assert change.target_share == pytest.approx(6 / 24)
    assert change.reference_share == pytest.approx(1 / 24)
    assert change.difference_points == pytest.approx(100 * 5 / 24)
    assert change.p_value == pytest.approx(2 * 0.5**5)
    assert change.verdict == "no evidence"


@pytest.mark.parametrize(("more", "less"), [(0, 0), (1, 0), (6, 0), (9, 2), (3, 7), (40, 11)])
def test_p_of_single_answers_is_mcnemars(more: int, less: int) -> None:
    steps = np.array([1] * more + [-1] * less + [0] * 30, dtype=np.int64)
    expected = mcnemar([[30, more], [less, 0]], exact=True).pvalue if more + less else 1.0
    assert sign_flip_p(steps) == pytest.approx(expected)
    if more + less:
        assert sign_flip_p(steps) == pytest.approx(binomtest(more, more + less).pvalue)


def test_p_of_several_samples_counts_every_choice_of_signs() -> None:
    steps = np.array([3, -1, 2, 2, 0], dtype=np.int64)
    sizes = np.array([3, 1, 2, 2])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1)
    sums = np.abs(sizes @ signs)
    assert sign_flip_p(steps) == pytest.approx((sums >= 6).mean())


def test_interval_of_single_answers_is_bonett_and_prices() -> None:
    """Their formula: Laplace-adjusted shares of the prompts that differ, n + 2 in all."""
    more, less, n = 9, 2, 50
    steps = np.array([1] * more + [-1] * less + [0] * (n - more - less), dtype=np.int64)
    up, down = (more + 1) / (n + 2), (less + 1) / (n + 2)
    half = 1.959963984540054 * np.sqrt((up + down - (up - down) ** 2) / (n + 2))
    found = paired_interval(steps, 1)
    assert (found.low, found.high) == pytest.approx((up - down - half, up - down + half))


def test_interval_where_nothing_differs_has_a_width() -> None:
    (change,) = behaviour_changes([pairs(0, 0, 0, 24)])
    assert change.difference_points == 0
    assert change.difference_low == pytest.approx(-10.66, abs=0.01)
    assert change.difference_high == pytest.approx(10.66, abs=0.01)
    assert (change.p_value, change.verdict, change.sign) == (1.0, "no evidence", 0)


def test_interval_covers_the_truth() -> None:
    """Three samples, 40 prompts of different difficulty: coverage of 95% within its noise."""
    rng = np.random.default_rng(3)
    covered = []
    for _ in range(40):
        base = rng.beta(1, 3, size=40)
        target = rng.binomial(3, np.minimum(base + 0.2, 1.0))
        steps = target - rng.binomial(3, base)
        truth = float((np.minimum(base + 0.2, 1.0) - base).mean())
        interval = paired_interval(steps.astype(np.int64), 3)
        covered.append(interval.low <= truth <= interval.high)
    assert np.mean(covered) > 0.9


def test_prompts_without_a_class_are_left_out_and_counted() -> None:
    target = np.array([[1.0], [np.nan], [1.0]])
    reference = np.array([[0.0], [0.0], [1.0]])
    (change,) = behaviour_changes([PairedAnswers("a", target, reference)])
    assert (change.n_prompts, change.n_left_out, change.n_more) == (2, 1, 1)
    assert change.verdict == "too few to say"


def test_category_without_a_prompt_is_no_test() -> None:
    nothing = PairedAnswers("a", np.empty((0, 1)), np.empty((0, 1)))
    empty, full = behaviour_changes([nothing, pairs(0, 9, 0, 15)])
    assert (empty.p_value, empty.q_value, empty.difference_points) == (None, None, None)
    assert full.q_value == full.p_value
    assert full.verdict == "up"


def test_q_is_benjamini_hochberg_over_the_categories() -> None:
    changes = behaviour_changes([pairs(0, 8, 0, 16), pairs(0, 6, 0, 18), pairs(3, 2, 2, 17)])
    p_values = [change.p_value or 1.0 for change in changes]
    assert [change.q_value for change in changes] == pytest.approx(
        [3 * p_values[0], 1.5 * p_values[1], 1.0]
    )


def test_fall_is_called_down() -> None:
    (change,) = behaviour_changes([pairs(0, 0, 9, 15)])
    assert (change.verdict, change.sign) == ("down", -1)


def test_answers_of_unlike_shape_are_refused() -> None:
    with pytest.raises(InputError, match="both models answer the same prompts"):
        PairedAnswers("a", np.ones((2, 1)), np.ones((3, 1)))


def test_signs_agree_with_an_interval() -> None:
    found = sign_agreement([(1, 1), (1, -1), (-1, -1), (0, 1), (1, 0), (1, 1)])
    assert (found.n_agree, found.n_categories) == (3, 4)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((0.3006, 0.9544), abs=1e-4)
    assert sign_agreement([(0, 1)]).interval is None
