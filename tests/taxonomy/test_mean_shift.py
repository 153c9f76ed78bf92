from __future__ import annotations

import numpy as np
import pytest

from taxonomy.mean_shift import mean_shifts

BLOCKS = 20


def shifts_of(parts: np.ndarray) -> np.ndarray:
    """(1 + G, F) shift and left-out shifts of latents whose blocks (G, F) weigh the same."""
    total = parts.sum(axis=0)
    return np.vstack([total / len(parts), (total - parts) / (len(parts) - 1)])


def everyone(n_latents: int) -> np.ndarray:
    return np.ones((n_latents, 1), dtype=bool)


def test_mean_and_interval_of_a_single_category() -> None:
    rng = np.random.default_rng(0)
    (found,) = mean_shifts(shifts_of(0.2 + 0.1 * rng.normal(size=(BLOCKS, 30))), everyone(30), [1])
    assert found.n_shifted == 30
    assert found.mean_shift == pytest.approx(0.2, abs=0.02)
    assert found.mean_shift_low is not None
    assert found.mean_shift_low > 0.15
    assert found.mean_shift_q == found.mean_shift_p < 1e-6


@pytest.mark.parametrize("shared", [0.0, 1.0], ids=["independent", "latents shift together"])
def test_interval_covers_the_mean_of_all_latents_and_documents(shared: float) -> None:
    rng = np.random.default_rng(1)
    n_latents, trials, covered = 25, 400, 0
    for _ in range(trials):
        of_latent = 0.1 * rng.normal(size=n_latents)
        of_document = shared * 0.5 * rng.normal(size=(BLOCKS, 1))
        parts = of_latent + of_document + 0.5 * rng.normal(size=(BLOCKS, n_latents))
        (found,) = mean_shifts(shifts_of(parts), everyone(n_latents), [1])
        assert found.mean_shift_low is not None
        assert found.mean_shift_high is not None
        covered += found.mean_shift_low <= 0 <= found.mean_shift_high
    assert 0.92 <= covered / trials <= 0.98


def test_latents_without_a_shift_are_left_out_and_one_latent_has_no_interval() -> None:
    shifts = np.array([[0.1, np.nan, 0.3]] * (1 + BLOCKS))
    members = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 0]], dtype=bool)
    three, one, none = mean_shifts(shifts, members, [1, 1, 1])
    assert (three.n_shifted, three.mean_shift) == (2, pytest.approx(0.2))
    assert (one.n_shifted, one.mean_shift, one.mean_shift_q) == (1, None, None)
    assert none.n_shifted == 0


def test_q_belongs_to_a_level() -> None:
    rng = np.random.default_rng(2)
    shifts = shifts_of(rng.normal(size=(BLOCKS, 40)))
    members = np.arange(40)[:, None] % 4 == np.arange(4)
    found = mean_shifts(shifts, members, [1, 1, 2, 2])
    for pair in (found[:2], found[2:]):
        largest = max(pair, key=lambda each: each.mean_shift_p)
        assert largest.mean_shift_q == pytest.approx(largest.mean_shift_p)


def test_relative_shift_compares_a_category_with_all_other_counted_latents() -> None:
    shifts = np.array([[0.3, 0.5, -0.1, -0.3, 9.0]] * (1 + BLOCKS))
    members = np.array([[1], [1], [0], [0], [0]], dtype=bool)
    counted = np.array([True, True, True, True, False])
    (found,) = mean_shifts(shifts, members, [1], counted)
    assert (found.mean_shift, found.relative_shift) == (pytest.approx(0.4), pytest.approx(0.6))
    (alone,) = mean_shifts(shifts, members, [1], members[:, 0])
    assert (alone.mean_shift, alone.relative_shift) == (pytest.approx(0.4), None)


def test_relative_interval_covers_zero_where_every_latent_is_turned_down_alike() -> None:
    rng = np.random.default_rng(3)
    trials, covered, called = 300, 0, 0
    members = np.arange(80)[:, None] < 15
    for _ in range(trials):
        of_latent = 0.1 * rng.normal(size=80)
        of_document = 0.5 * rng.normal(size=(BLOCKS, 1))
        parts = -1.0 + of_latent + of_document + 0.5 * rng.normal(size=(BLOCKS, 80))
        (found,) = mean_shifts(shifts_of(parts), members, [1])
        assert found.relative_shift_low is not None
        assert found.relative_shift_high is not None
        covered += found.relative_shift_low <= 0 <= found.relative_shift_high
        called += found.mean_shift_p < 0.05
    assert 0.92 <= covered / trials <= 0.98
    assert called == trials
