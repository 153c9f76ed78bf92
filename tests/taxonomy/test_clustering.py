from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

from taxonomy.clustering import (
    ClusterSample,
    average_linkage,
    centred,
    cluster,
    name_clusters,
    sample_clusters,
    sweep_thresholds,
)
from taxonomy.errors import InputError
from taxonomy.mapping import normalise_rows


def planted(n: int, n_clusters: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (n, 384) around random directions, with Dirichlet-distributed cluster sizes."""
    generator = np.random.default_rng(seed)
    sizes = generator.multinomial(n - n_clusters, generator.dirichlet(np.ones(n_clusters))) + 1
    truth = generator.permutation(np.repeat(np.arange(n_clusters), sizes))
    directions = normalise_rows(generator.normal(size=(n_clusters, 384)))
    noise = normalise_rows(generator.normal(size=(n, 384)))
    return normalise_rows(directions[truth] + 0.8 * noise), truth


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_clusters_are_recovered(seed: int) -> None:
    vectors, truth = planted(205, 30, seed)
    found = cluster(vectors, 0.7)
    assert adjusted_mutual_info_score(truth, found.labels) >= 0.9
    assert 25 <= found.n_clusters <= 35


def test_no_texts_give_no_clusters() -> None:
    found = cluster(np.zeros((0, 8)))
    assert found.n_clusters == 0
    assert found.labels.shape == (0,)
    assert name_clusters(found, [], lambda sample: "never asked") == []


def test_one_text_is_a_cluster() -> None:
    found = cluster([[0.0, 1.0]])
    assert found.labels.tolist() == [0]
    assert found.medoids.tolist() == [0]
    assert found.outsiders == ((),)


@pytest.mark.parametrize(
    ("second", "labels"), [([1.0, 0.1], [0, 0]), ([0.0, 1.0], [0, 1]), ([-1.0, 0.0], [0, 1])]
)
def test_two_texts_join_when_they_are_near(second: list[float], labels: list[int]) -> None:
    assert cluster([[1.0, 0.0], second], 0.5).labels.tolist() == labels


def test_duplicates_share_a_cluster_and_weigh_no_more_than_one() -> None:
    distinct = np.array([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]])
    once = cluster(distinct, 0.5)
    often = cluster(distinct[[0, 0, 0, 1, 2, 2]], 0.5)
    assert once.labels.tolist() == [0, 0, 1]
    assert often.labels.tolist() == [0, 0, 0, 0, 1, 1]


def test_texts_that_are_all_equal_are_one_cluster() -> None:
    found = cluster(np.ones((4, 3)))
    assert found.labels.tolist() == [0, 0, 0, 0]
    assert found.medoids.tolist() == [0]


def test_texts_without_any_known_word_stand_apart() -> None:
    assert cluster([[0.0, 0.0], [1.0, 0.0], [1.0, 0.1]], 0.5).labels.tolist() == [0, 1, 1]


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(24)))
def test_the_partition_does_not_depend_on_the_order(order: list[int]) -> None:
    vectors, _ = planted(24, 6, seed=4)
    straight = cluster(vectors, 0.7).labels[order]
    shuffled = cluster(vectors[order], 0.7).labels
    assert adjusted_mutual_info_score(straight, shuffled) == pytest.approx(1.0)


def test_the_same_vectors_give_the_same_clustering() -> None:
    vectors, _ = planted(60, 10, seed=5)
    first, second = cluster(vectors, 0.7), cluster(vectors, 0.7)
    assert first.labels.tolist() == second.labels.tolist()
    assert first.medoids.tolist() == second.medoids.tolist()
    assert first.outsiders == second.outsiders


def test_medoids_are_members_nearest_to_the_others() -> None:
    vectors, _ = planted(80, 8, seed=6)
    found = cluster(vectors, 0.7)
    for number, medoid in enumerate(found.medoids):
        members = found.members(number)
        totals = (1 - vectors[members] @ vectors[members].T).sum(axis=1)
        assert medoid == members[np.argmin(np.round(totals, 9))]


def test_outsiders_lie_outside_and_come_nearest_first() -> None:
    vectors, _ = planted(40, 6, seed=7)
    found = cluster(vectors, 0.7, n_outsiders=5)
    for number, outsiders in enumerate(found.outsiders):
        centre = vectors[found.members(number)].mean(axis=0)
        closeness = vectors[list(outsiders)] @ centre
        assert len(outsiders) == 5
        assert (found.labels[list(outsiders)] != number).all()
        assert (np.diff(closeness) <= 1e-9).all()


def test_a_threshold_outside_the_cosine_range_is_refused() -> None:
    for threshold in (0.0, -1.0, 2.5):
        with pytest.raises(InputError, match="choose 0 < d <= 2"):
            cluster([[1.0, 0.0]], threshold)


VECTORS = [[1.0, 0.0], [1.0, 0.1], [0.9, 0.0], [0.0, 1.0], [0.1, 1.0]]
TEXTS = ["refuses", "declines", "refuses", "French", "German"]


def test_naming_sees_distinct_members_and_nearest_outsiders() -> None:
    samples = sample_clusters(cluster(VECTORS), TEXTS)
    assert [sample.size for sample in samples] == [3, 2]
    assert samples[0].members == ("refuses", "declines")
    assert samples[0].medoid == "refuses"
    assert set(samples[0].outsiders) == {"French", "German"}
    assert samples[0].outsiders[0] == "German"


def test_names_are_tidy_and_distinct() -> None:
    def naming(sample: ClusterSample) -> str:
        return "  Same \n name " if sample.cluster == 0 else "same name"

    assert name_clusters(cluster(VECTORS), TEXTS, naming) == ["Same name", "same name (2)"]


def test_an_empty_name_becomes_the_medoid() -> None:
    names = name_clusters(cluster(VECTORS), TEXTS, lambda sample: " ")
    assert names[0] == "refuses"
    assert names[1] in {"French", "German"}


def test_texts_that_do_not_belong_to_the_clustering_are_refused() -> None:
    with pytest.raises(InputError, match="2 texts for a clustering of 5"):
        sample_clusters(cluster(VECTORS), ["a", "b"])


def planted_evenly(
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
    vectors, _ = planted_evenly(120, 9, 3)
    model = AgglomerativeClustering(
        n_clusters=None, metric="cosine", linkage="average", distance_threshold=threshold
    )
    expected = model.fit_predict(vectors)
    assert adjusted_rand_score(expected, average_linkage(vectors).cut(threshold)) == 1.0


def test_one_tree_gives_coarser_clusters_at_larger_distances() -> None:
    vectors, _ = planted_evenly(80, 6, 1)
    tree = average_linkage(vectors)
    fine, coarse = tree.cut(0.3), tree.cut(0.8)
    pairs = {(int(a), int(b)) for a, b in zip(fine, coarse, strict=True)}
    assert len(pairs) == len(set(fine.tolist()))


def test_a_swept_distance_recovers_what_was_planted() -> None:
    vectors, truth = planted_evenly(200, 12, 5)
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
    vectors, _ = planted_evenly(50, 5, 2)
    shifted = normalise_rows(vectors + 2.0)
    assert abs(float((centred(shifted) @ centred(shifted).T).mean())) < 0.05
    assert np.array_equal(centred(np.eye(3)), np.eye(3))
