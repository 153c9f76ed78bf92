from __future__ import annotations

import numpy as np
import pytest

from taxonomy.errors import InputError
from taxonomy.mapping import (
    DEFAULT_NONE_THRESHOLD,
    LEAST_THRESHOLD,
    CategoryIndex,
    LeafVectors,
    build_index,
    calibrate_none_threshold,
    leave_one_out_scores,
    normalise_rows,
    raw_similarities,
    standardise,
    threshold_from_labelled,
)

N_LEAVES, WIDTH = 20, 48


def planted_index(noise: float, n_leaves: int = N_LEAVES, n_prototypes: int = 5) -> CategoryIndex:
    generator = np.random.default_rng(0)
    directions = normalise_rows(generator.normal(size=(n_leaves, WIDTH)))
    return build_index(
        [
            LeafVectors(
                f"leaf-{i}",
                direction,
                direction + noise * normalise_rows(generator.normal(size=(n_prototypes, WIDTH))),
            )
            for i, direction in enumerate(directions)
        ]
    )


def test_a_prototype_is_left_out_of_its_own_leaf_only() -> None:
    index = planted_index(noise=1.0)
    left_out = leave_one_out_scores(index)
    whole = standardise(raw_similarities(index.prototypes, index), index)
    own = index.owners[:, None] == np.arange(N_LEAVES)
    assert (left_out[own] < whole[own]).all()
    assert left_out[~own] == pytest.approx(whole[~own])


def test_the_wanted_share_of_leaves_passes_the_threshold() -> None:
    index = planted_index(noise=1.0)
    calibration = calibrate_none_threshold(index, pass_rate=0.9)
    scores = leave_one_out_scores(index)
    coherent = [scores[index.owners == leaf, leaf].mean() for leaf in range(N_LEAVES)]
    assert np.mean(np.array(coherent) >= calibration.threshold) == pytest.approx(0.9)
    assert calibration.n_texts == N_LEAVES * 5
    assert calibration.accuracy is not None
    assert calibration.accuracy > 0.9


def test_leaves_without_any_likeness_keep_the_least_threshold() -> None:
    calibration = calibrate_none_threshold(planted_index(noise=50.0))
    assert calibration.threshold == LEAST_THRESHOLD


@pytest.mark.parametrize(("n_leaves", "n_prototypes"), [(20, 1), (4, 5)])
def test_too_few_texts_fall_back_on_the_default(n_leaves: int, n_prototypes: int) -> None:
    index = planted_index(0.5, n_leaves, n_prototypes)
    assert calibrate_none_threshold(index).threshold == DEFAULT_NONE_THRESHOLD


def test_a_taxonomy_without_prototypes_falls_back_on_the_default() -> None:
    index = build_index([LeafVectors("a", [1.0, 0.0], []), LeafVectors("b", [0.0, 1.0], [])])
    calibration = calibrate_none_threshold(index)
    assert calibration.threshold == DEFAULT_NONE_THRESHOLD
    assert calibration.accuracy is None


def test_labelled_scores_are_split_in_the_middle_of_their_gap() -> None:
    threshold = threshold_from_labelled([0.5, 1.0, 2.0, 3.0, 4.0], [False, False, True, True, True])
    assert threshold == 1.5


def test_a_labelled_exception_does_not_move_the_threshold() -> None:
    scores = [0.1, 0.2, 0.3, 5.0, 2.0, 3.0, 4.0, 0.05]
    truth = [False, False, False, False, True, True, True, True]
    assert threshold_from_labelled(scores, truth) == pytest.approx(1.15)


def test_labels_of_one_kind_are_refused() -> None:
    with pytest.raises(InputError, match="both kinds"):
        threshold_from_labelled([1.0, 2.0], [True, True])
