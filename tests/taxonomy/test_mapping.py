from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taxonomy.errors import InputError
from taxonomy.mapping import (
    DEFAULT_NONE_THRESHOLD,
    CategoryIndex,
    LeafVectors,
    build_index,
    normalise_rows,
    raw_similarities,
    standardise,
)

N_LEAVES, WIDTH = 12, 64


def planted_leaves(seed: int = 0, noise: float = 0.5) -> tuple[np.ndarray, list[LeafVectors]]:
    """Directions (C, e) of leaves and leaves whose texts scatter around them."""
    generator = np.random.default_rng(seed)
    directions = normalise_rows(generator.normal(size=(N_LEAVES, WIDTH)))
    leaves = [
        LeafVectors(f"leaf-{i}", direction, scatter(direction, 5, noise, generator))
        for i, direction in enumerate(directions)
    ]
    return directions, leaves


def scatter(
    direction: np.ndarray, n: int, noise: float, generator: np.random.Generator
) -> np.ndarray:
    return normalise_rows(direction + noise * normalise_rows(generator.normal(size=(n, WIDTH))))


def mean_scores(snippets: np.ndarray, index: CategoryIndex) -> np.ndarray:
    """Scores (C,) of a latent: the mean over its snippets."""
    return standardise(raw_similarities(snippets, index), index).mean(axis=0)


def nearest(latents: list[np.ndarray], index: CategoryIndex) -> list[str]:
    return [index.slugs[int(mean_scores(latent, index).argmax())] for latent in latents]


@pytest.fixture
def index() -> CategoryIndex:
    return build_index(planted_leaves()[1])


def test_latents_are_nearest_to_the_leaf_they_scatter_around(index: CategoryIndex) -> None:
    directions, _ = planted_leaves()
    generator = np.random.default_rng(1)
    latents = [scatter(direction, 4, 1.0, generator) for direction in directions]
    assert nearest(latents, index) == list(index.slugs)
    assert all(mean_scores(latent, index).max() > DEFAULT_NONE_THRESHOLD for latent in latents)


def test_text_like_no_leaf_scores_below_the_threshold(index: CategoryIndex) -> None:
    generator = np.random.default_rng(2)
    latents = [normalise_rows(generator.normal(size=(6, WIDTH))) for _ in range(20)]
    assert all(mean_scores(latent, index).max() < DEFAULT_NONE_THRESHOLD for latent in latents)


def test_a_leaf_that_is_near_to_everything_does_not_win_by_that() -> None:
    directions, leaves = planted_leaves()
    common = np.ones(WIDTH) / np.sqrt(WIDTH)
    shifted = [
        LeafVectors(leaf.slug, np.asarray(leaf.definition) + common, leaf.prototypes + 0.6 * common)
        for leaf in leaves
    ]
    hub = LeafVectors("hub", common, np.tile(common, (4, 1)))
    index = build_index([hub, *shifted])
    latents = [np.atleast_2d(direction + 0.8 * common) for direction in directions]
    assert nearest(latents, index) == [leaf.slug for leaf in leaves]


def test_raw_similarity_blends_definition_and_best_two_prototypes() -> None:
    leaf = LeafVectors("a", [1.0, 0.0], [[0.0, 1.0], [0.6, 0.8], [1.0, 0.0]])
    other = LeafVectors("b", [0.0, 1.0], np.zeros((0, 2)))
    raw = raw_similarities([[1.0, 0.0]], build_index([leaf, other]))
    assert raw[0] == pytest.approx([0.25 * 1.0 + 0.75 * (1.0 + 0.6) / 2, 0.0])


@settings(max_examples=40, deadline=None)
@given(st.floats(0.01, 100), st.permutations(range(5)))
def test_scores_depend_on_directions_and_not_on_lengths_or_order(
    length: float, order: list[int]
) -> None:
    index = build_index(planted_leaves()[1])
    snippets = np.random.default_rng(3).normal(size=(5, WIDTH))
    expected = mean_scores(snippets, index)
    assert mean_scores(length * snippets[order], index) == pytest.approx(expected, abs=1e-9)


def test_definitions_alone_are_enough() -> None:
    directions, _ = planted_leaves()
    index = build_index([LeafVectors(f"leaf-{i}", row, []) for i, row in enumerate(directions)])
    assert nearest([row[None] for row in directions], index) == list(index.slugs)


def test_a_text_without_any_known_word_scores_below_the_threshold(index: CategoryIndex) -> None:
    assert mean_scores(np.zeros((2, WIDTH)), index).max() < DEFAULT_NONE_THRESHOLD


def test_vectors_of_another_model_are_refused(index: CategoryIndex) -> None:
    with pytest.raises(InputError, match="embed both with the same model"):
        raw_similarities(np.ones((1, WIDTH + 1)), index)


def test_a_vector_with_nan_is_refused(index: CategoryIndex) -> None:
    with pytest.raises(InputError, match="no number"):
        raw_similarities(np.full((1, WIDTH), np.nan), index)


def test_an_empty_taxonomy_is_refused() -> None:
    with pytest.raises(InputError, match="without leaves"):
        build_index([])


def test_prototypes_of_another_width_are_refused() -> None:
    with pytest.raises(InputError, match="a: prototypes of width 3"):
        build_index([LeafVectors("a", [1.0, 0.0], [[1.0, 0.0, 0.0]])])
