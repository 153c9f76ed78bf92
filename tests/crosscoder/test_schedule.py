from __future__ import annotations

from itertools import pairwise

import pytest

from crosscoder.trainer import annealed_k, learning_rate


def test_rate_warms_up_stays_and_decays_to_nothing() -> None:
    rates = [learning_rate(step, 20, 2.0, 4, 0.5) for step in range(20)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4:11] == [2.0] * 7
    assert rates[-1] == pytest.approx(0.2)
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))


def test_rate_is_constant_without_warm_up_and_decay() -> None:
    assert {learning_rate(step, 10, 0.1, 0, 0.0) for step in range(10)} == {0.1}


def test_no_annealing_steps_means_the_target_from_the_first_step() -> None:
    assert annealed_k(0, k=32, k_initial=2048, annealing_steps=0) == 32


def test_k_is_annealed_linearly_and_then_fixed() -> None:
    assert [annealed_k(step, 2, 10, 4) for step in range(6)] == [10, 8, 6, 4, 2, 2]
