from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

from taxonomy.cluster_distance import centred, sweep_thresholds
from taxonomy.clustering import average_linkage
from taxonomy.errors import InputError
from taxonomy.mapping import normalise_rows


def planted(
    n: int, n_clusters: int, seed: int, noise: float = 0.8
) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, n_clusters, size=n)
    directions = normalise_rows(generator.normal(size=(n_clusters, 96)))
    return normalise_rows(
        directions[truth] + noise * normalise_rows(generator.normal(size=(n, 96)))
    ), truth


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.7, 0.9])
def test_the_tree_cuts_as_scikit_learn_does(threshold: float) -> None:
    vectors, _ = planted(120, 9, 3)
    model = AgglomerativeClustering(
        n_clusters=None, metric="cosine", linkage="average", distance_threshold=threshold
    )
    expected = model.fit_predict(vectors)
    assert adjusted_rand_score(expected, average_linkage(vectors).cut(threshold)) == 1.0


def test_one_tree_gives_coarser_clusters_at_larger_distances() -> None:
    vectors, _ = planted(80, 6, 1)
    tree = average_linkage(vectors)
    fine, coarse = tree.cut(0.3), tree.cut(0.8)
    pairs = {(int(a), int(b)) for a, b in zip(fine, coarse, strict=True)}
    assert len(pairs) == len(set(fine.tolist()))


def test_a_swept_distance_recovers_what_was_planted() -> None:
    vectors, truth = planted(200, 12, 5)
    sweep = sweep_thresholds(vectors, seed=0)
    labels = average_linkage(vectors).cut(sweep.threshold)
    assert adjusted_mutual_info_score(truth, labels) >= 0.95
    assert sweep.chosen.score >= max(point.score for point in sweep.points) - 0.06
    assert sweep == sweep_thresholds(vectors, seed=0)


def test_too_few_texts_and_strange_subsamples_are_refused() -> None:
    with pytest.raises(InputError, match="3 different texts are too few"):
        sweep_thresholds(np.eye(3), seed=0)
    with pytest.raises(InputError, match="subsamples"):
        sweep_thresholds(np.eye(9), seed=0, share=0.4)


def test_what_all_texts_share_is_taken_out() -> None:
    vectors, _ = planted(50, 5, 2)
    shifted = normalise_rows(vectors + 2.0)
    assert abs(float((centred(shifted) @ centred(shifted).T).mean())) < 0.05
    assert np.array_equal(centred(np.eye(3)), np.eye(3))
