from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taxonomy.errors import InputError
from taxonomy.mapping import (
    CategoryIndex,
    LeafVectors,
    assign,
    build_index,
    normalise_rows,
    raw_similarities,
    score_latent,
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


@pytest.fixture
def index() -> CategoryIndex:
    return build_index(planted_leaves()[1])


def test_latents_are_mapped_to_the_leaf_they_scatter_around(index: CategoryIndex) -> None:
    directions, _ = planted_leaves()
    generator = np.random.default_rng(1)
    latents = [scatter(direction, 4, 1.0, generator) for direction in directions]
    mappings = assign(latents, index)
    assert [mapping.slug for mapping in mappings] == list(index.slugs)
    for mapping in mappings:
        assert mapping.outcome == "assigned"
        assert mapping.candidates[0].slug == mapping.slug
        assert mapping.margin > 0
        assert 0.5 < mapping.confidence <= 1


def test_text_like_no_leaf_is_mapped_to_none(index: CategoryIndex) -> None:
    generator = np.random.default_rng(2)
    latents = [normalise_rows(generator.normal(size=(6, WIDTH))) for _ in range(20)]
    mappings = assign(latents, index)
    assert {mapping.outcome for mapping in mappings} == {"none"}
    assert {mapping.slug for mapping in mappings} == {None}
    assert all(mapping.candidates for mapping in mappings)


def test_a_latent_between_two_leaves_gets_both_in_order(index: CategoryIndex) -> None:
    directions, _ = planted_leaves()
    (mapping,) = assign([1.02 * directions[3:4] + directions[7:8]], index, secondary_margin=2.0)
    assert [category.slug for category in mapping.categories] == ["leaf-3", "leaf-7"]
    assert mapping.runner_up is not None
    assert mapping.runner_up.slug == "leaf-7"
    (strict,) = assign([1.02 * directions[3:4] + directions[7:8]], index, secondary_margin=0.0)
    assert len(strict.categories) == 1


def test_candidates_come_by_falling_score_and_confidence(index: CategoryIndex) -> None:
    directions, _ = planted_leaves()
    (mapping,) = assign([directions[:1]], index, n_candidates=N_LEAVES)
    scores = [candidate.score for candidate in mapping.candidates]
    shares = [candidate.confidence for candidate in mapping.candidates]
    assert scores == sorted(scores, reverse=True)
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) < 1


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
    assert [mapping.slug for mapping in assign(latents, index)] == [leaf.slug for leaf in leaves]


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
    expected = score_latent(snippets, index)
    assert score_latent(length * snippets[order], index) == pytest.approx(expected, abs=1e-9)


def test_definitions_alone_are_enough() -> None:
    directions, _ = planted_leaves()
    index = build_index([LeafVectors(f"leaf-{i}", row, []) for i, row in enumerate(directions)])
    mappings = assign([row[None] for row in directions], index)
    assert [mapping.slug for mapping in mappings] == list(index.slugs)


def test_a_single_leaf_has_no_runner_up() -> None:
    index = build_index([LeafVectors("only", [1.0, 0.0], [])])
    (mapping,) = assign([[[1.0, 0.0]]], index, none_threshold=0.5)
    assert mapping.slug == "only"
    assert mapping.runner_up is None
    assert mapping.margin == float("inf")


def test_a_text_without_any_known_word_is_none(index: CategoryIndex) -> None:
    (mapping,) = assign([np.zeros((2, WIDTH))], index)
    assert mapping.outcome == "none"


def test_no_latents_give_no_mappings(index: CategoryIndex) -> None:
    assert assign([], index) == []


def test_vectors_of_another_model_are_refused(index: CategoryIndex) -> None:
    with pytest.raises(InputError, match="embed both with the same model"):
        assign([np.ones((1, WIDTH + 1))], index)


def test_a_latent_without_snippets_is_refused(index: CategoryIndex) -> None:
    with pytest.raises(InputError, match="without a snippet"):
        score_latent(np.zeros((0, WIDTH)), index)


def test_a_vector_with_nan_is_refused(index: CategoryIndex) -> None:
    with pytest.raises(InputError, match="no number"):
        score_latent(np.full((1, WIDTH), np.nan), index)


def test_an_empty_taxonomy_is_refused() -> None:
    with pytest.raises(InputError, match="without leaves"):
        build_index([])


def test_prototypes_of_another_width_are_refused() -> None:
    with pytest.raises(InputError, match="a: prototypes of width 3"):
        build_index([LeafVectors("a", [1.0, 0.0], [[1.0, 0.0, 0.0]])])
