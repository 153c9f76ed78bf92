from __future__ import annotations

import numpy as np
import pytest

from taxonomy.category_head import CategoryHead, HeadRows, fit_head
from taxonomy.errors import InputError

N_LEAVES, WIDTH = 4, 6


def rows(labels: list[int], seed: int, noise: float = 0.3) -> HeadRows:
    """Latents whose features and similarities point at their leaf; `none` points nowhere."""
    random = np.random.default_rng(seed)
    features = noise * random.normal(size=(len(labels), WIDTH))
    similarities = noise * random.normal(size=(len(labels), N_LEAVES))
    for row, label in enumerate(labels):
        if label < N_LEAVES:
            features[row, label] += 2
            similarities[row, label] += 1
    return HeadRows(features, similarities)


def guesses(head: CategoryHead, some: HeadRows) -> list[int]:
    return head.probabilities(some).argmax(axis=1).tolist()


LABELS = [0, 1, 2, 3, N_LEAVES] * 6


def test_latents_outside_the_fit_get_their_category() -> None:
    head = fit_head(rows(LABELS, 0), LABELS)
    right = np.equal(guesses(head, rows(LABELS, 1)), LABELS)
    assert right.mean() >= 0.9
    probabilities = head.probabilities(rows(LABELS, 1))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_a_leaf_without_labelled_latents_is_found_by_its_similarity() -> None:
    some = rows(LABELS, 0)
    known = [row for row, label in enumerate(LABELS) if label != 2]
    seen = HeadRows(some.features[known], some.similarities[known])
    head = fit_head(seen, [LABELS[row] for row in known])
    assert head.similarity_weight > 0
    assert not head.weights[2].any()
    unseen = HeadRows(np.zeros((1, WIDTH)), np.array([[0.0, 0.0, 2.0, 0.0]]))
    assert guesses(head, unseen) == [2]


def test_the_fit_is_a_minimum_of_the_penalised_likelihood() -> None:
    """Central differences of the loss, written out by itself, vanish at the fit."""
    some, labels = rows(LABELS, 3, noise=1.0), np.array(LABELS)
    ridge = 0.7
    head = fit_head(some, labels, ridge=ridge)
    shared = head.offsets[:-1].mean()

    def loss(head: CategoryHead, shared: float) -> float:
        log_p = np.log(head.probabilities(some))[np.arange(len(labels)), labels]
        own = np.append(head.offsets[:-1] - shared, head.offsets[-1])
        return float(-log_p.sum() + 0.5 * ridge * ((head.weights**2).sum() + (own**2).sum()))

    def moved(step: float, at: tuple[int, int]) -> float:
        weights = head.weights.copy()
        weights[at] += step
        return loss(CategoryHead(weights, head.offsets, head.similarity_weight), shared)

    for at in [(0, 0), (2, 5), (4, 1)]:
        slope = (moved(1e-4, at) - moved(-1e-4, at)) / 2e-4
        assert abs(slope) < 1e-2


def test_categories_weigh_the_same_however_many_latents_they_have() -> None:
    labels = [0] * 30 + [1] * 2
    some = HeadRows(np.zeros((32, WIDTH)), np.zeros((32, N_LEAVES)))
    shares = fit_head(some, labels).probabilities(HeadRows(np.zeros((1, WIDTH)), np.zeros((1, 4))))
    assert shares[0, 0] == pytest.approx(shares[0, 1], abs=1e-4)


def test_one_category_is_refused() -> None:
    with pytest.raises(InputError, match="at least two categories"):
        fit_head(rows([1, 1], 0), [1, 1])
