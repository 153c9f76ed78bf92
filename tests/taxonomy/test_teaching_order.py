from __future__ import annotations

import numpy as np

from taxonomy.teaching_order import doubt_of, teaching_order

EAST, NORTH, WEST = (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)
NOBODY: list[tuple[float, float]] = []


def test_doubt_is_what_the_second_best_leaves_to_the_best() -> None:
    assert doubt_of([[0.5, 0.1, 0.4], [0.05, 0.9, 0.05]]).round(6).tolist() == [0.9, 0.15]


def test_the_most_doubtful_comes_first() -> None:
    assert teaching_order([0.2, 0.9, 0.5], [EAST, NORTH, WEST], NOBODY, 3)[0] == 1


def test_a_twin_of_a_chosen_latent_waits_for_the_others() -> None:
    order = teaching_order([0.9, 0.89, 0.4], [EAST, (0.999, 0.01), NORTH], NOBODY, 3)
    assert order == [0, 2, 1]


def test_what_is_like_a_reviewed_latent_comes_last() -> None:
    assert teaching_order([0.9, 0.3], [EAST, NORTH], [EAST], 2) == [1, 0]


def test_no_more_than_asked_for_and_no_latent_twice() -> None:
    vectors = np.random.default_rng(0).normal(size=(30, 4))
    order = teaching_order(np.full(30, 0.5), vectors, vectors[:3], 12)
    assert len(order) == len(set(order)) == 12
    assert sorted(teaching_order(np.full(30, 0.5), vectors, [], 99)) == list(range(30))
    assert teaching_order([], np.empty((0, 4)), [], 5) == []
