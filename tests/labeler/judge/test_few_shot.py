from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from judge_subjects import COOKING, MULTILINGUAL, SAFETY, subject, window

from labeler.embedding.base import CachedEmbedder, Vectors, normalised
from labeler.judge import few_shot
from labeler.judge.base import CategoryOption
from labeler.judge.evidence_statistics import LanguageIdentifier, read
from labeler.judge.few_shot import FUNCTION_WORDS, HeadFinder, build_head_finder
from labeler.judge.labelled_evidence import NONE, LabelledLatent, fitting_set
from labeler.judge.latent_features import FeatureReader
from labeler.judge.mixed_latents import mixed_latents
from labeler.judge.nearest_category import CategoryFinder
from taxonomy.tree import seed_taxonomy

HARM = ("bomb", "poison", "weapon", "kill", "steal", "hack")
FOOD = ("onion", "butter", "soup", "bread", "basil", "garlic")
THINGS = ("wall", "cloud", "paper", "shoe", "window", "lamp")
SMALL = CategoryOption(
    FUNCTION_WORDS, "Function words", None, "Small words.", prototypes=("the of and to", "in a for")
)
OPTIONS = (SAFETY, COOKING, SMALL)


class HashEmbedder:
    """The sum of a fixed random vector for each word."""

    name = "hash"
    fingerprint = "hash-1"

    def embed(self, texts: Sequence[str]) -> Vectors:
        return normalised(np.array([self._sum(text) for text in texts]).reshape(len(texts), 64))

    def _sum(self, text: str) -> Vectors:
        words = text.casefold().replace(",", "").replace(".", "").split()
        return sum((_word_vector(word) for word in words), np.zeros(64, dtype=np.float32))


@lru_cache
def _word_vector(word: str) -> Vectors:
    random = np.random.default_rng(crc32(word.encode()))
    return random.normal(size=64).astype(np.float32)


def latent(category: str, words: Sequence[str], number: int) -> LabelledLatent:
    texts = [
        f"now the <<{word}>> and {words[(row + number) % len(words)]} of day {row + 10 * number}"
        for row, word in enumerate(words)
    ]
    windows = tuple(window(text) for text in texts)
    return LabelledLatent(f"{category}-{number}", category, subject(windows))


LABELLED = tuple(
    latent(category, words, number)
    for category, words in (("safety", HARM), (COOKING.slug, FOOD), (NONE, THINGS))
    for number in range(4)
)


def finder(
    options: Sequence[CategoryOption] = OPTIONS,
    labelled: Sequence[LabelledLatent] = LABELLED,
    cache: Path | None = None,
) -> HeadFinder | None:
    embedder = CachedEmbedder(HashEmbedder())
    reader = FeatureReader(embedder, LanguageIdentifier())
    nearest = CategoryFinder.build(options, embedder)
    return build_head_finder(options, reader, nearest, labelled, cache)


def found(head: HeadFinder | None, texts: Sequence[str]) -> list[str]:
    assert head is not None
    reading = read(subject([window(text) for text in texts]))
    return [one.slug for one in head.find(reading).found]


def test_a_latent_like_the_labelled_ones_gets_their_category() -> None:
    head = finder()
    assert found(head, [f"a <<{word}>> for item {n}" for n, word in enumerate(HARM)]) == ["safety"]
    assert found(head, [f"a <<{word}>> for item {n}" for n, word in enumerate(FOOD)])[0] == (
        COOKING.slug
    )


def test_one_small_word_in_texts_of_many_subjects_is_of_function_words() -> None:
    texts = [f"<<the>> {word} is near item {n}" for n, word in enumerate((*FOOD[:3], *THINGS[:3]))]
    assert found(finder(), texts) == [FUNCTION_WORDS]


def test_a_leaf_without_labelled_latents_is_found_by_its_texts() -> None:
    prototypes = ("rain and wind", "wind and snow", "rain or snow")
    other = CategoryOption(
        "weather", "Weather", None, "Rain, wind and snow.", prototypes=prototypes
    )
    texts = [f"<<rain>> and <<wind>> {n}" for n in range(6)]
    assert found(finder((*OPTIONS, other)), texts) == ["weather"]


def test_without_two_labelled_leaves_there_is_no_head() -> None:
    assert finder((SAFETY, MULTILINGUAL)) is None
    assert finder(labelled=()) is None


def test_a_fit_is_cached_and_a_damaged_one_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = finder(cache=tmp_path)
    (path,) = tmp_path.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(few_shot, "fit_head", None)
        again = finder(cache=tmp_path)
    assert first is not None
    assert again is not None
    np.testing.assert_array_equal(again.head.weights, first.head.weights)
    np.testing.assert_array_equal(again.centre, first.centre)
    path.write_bytes(b"not a fit")
    with caplog.at_level(logging.WARNING):
        finder(cache=tmp_path)
    assert "the head is fitted again" in caplog.text


def test_other_labelled_latents_are_another_fit(tmp_path: Path) -> None:
    finder(cache=tmp_path)
    finder(labelled=LABELLED[1:], cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_mixed_latents_have_one_word_active_each_and_are_the_same_again() -> None:
    mixed = mixed_latents(LABELLED, n=20)
    assert {latent.category for latent in mixed} == {FUNCTION_WORDS, NONE}
    for one in mixed:
        assert all(window.peak == 1 for window in one.subject.windows)
    small = [one for one in mixed if one.category == FUNCTION_WORDS]
    active = {
        token.strip().lower()
        for one in small
        for window in one.subject.windows
        for token, value in zip(window.tokens, window.activations, strict=True)
        if value
    }
    assert active <= {"the", "now", "and", "of"}
    assert mixed == mixed_latents(LABELLED, n=20)


class NamedEmbedder(HashEmbedder):
    """Has the fingerprint of the published all-MiniLM-L6-v2."""

    fingerprint = "f7be7ec3335d379d627671be21243692471e72ffc90a66a49649e30affaa4ec8"


def test_the_package_has_the_fit_of_the_seed_taxonomy() -> None:
    """After a change of what a fit depends on: `benchmarks/evidence_judge.py --write-head`."""
    options = [
        CategoryOption(
            leaf.slug,
            leaf.name,
            leaf.parent,
            leaf.definition,
            prototypes=leaf.prototypes,
            behaviour=leaf.behaviour,
        )
        for leaf in seed_taxonomy().leaves()
    ]
    reader = FeatureReader(NamedEmbedder(), LanguageIdentifier())
    name = few_shot.fit_name(options, reader, fitting_set())
    heads = resources.files("labeler.judge").joinpath(few_shot.HEADS)
    assert [place.name for place in heads.iterdir()] == [name]
