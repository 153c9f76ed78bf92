from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labeler.embedding.base import Vectors, normalised
from labeler.judge.base import CategoryOption
from labeler.judge.nearest_category import MULTILINGUAL, CategoryFinder

N_TOPICS = 12
WIDTH = N_TOPICS + 4


class TopicEmbedder:
    """Every `topicN` in a text adds to one axis; every other word to one of four noise axes."""

    name = "topics"
    fingerprint = "topics"

    def embed(self, texts: Sequence[str]) -> Vectors:
        rows = np.zeros((len(texts), WIDTH))
        for row, text in enumerate(texts):
            for word in text.split():
                number = word.removeprefix("topic")
                axis = int(number) if number.isdigit() else N_TOPICS + len(word) % 4
                rows[row, axis] += 1.0
        return normalised(rows)


def option(topic: int, n_prototypes: int = 4, slug: str | None = None) -> CategoryOption:
    noise = ("a", "bb", "ccc", "dddd")
    prototypes = tuple(f"topic{topic} {noise[n % 4]}" for n in range(n_prototypes))
    return CategoryOption(
        slug or f"c{topic}", f"topic{topic}", None, f"topic{topic}", "", "", prototypes
    )


def finder(options: Sequence[CategoryOption]) -> CategoryFinder:
    return CategoryFinder.build(options, TopicEmbedder())


ALL = [option(topic) for topic in range(N_TOPICS - 1)]


@pytest.mark.parametrize("topic", range(N_TOPICS - 1))
def test_a_topic_is_found_and_a_foreign_topic_is_none(topic: int) -> None:
    found = finder(ALL)
    texts = [f"topic{topic} {word}" for word in ("a", "bb", "dddd")]
    best = found.find(TopicEmbedder().embed(texts), 0.0)[0]
    assert best.slug == f"c{topic}"
    assert 0 < best.confidence <= 1
    foreign = [f"topic{N_TOPICS - 1} {word}" for word in ("a", "bb", "dddd")]
    assert found.find(TopicEmbedder().embed(foreign), 0.0) == []


def test_the_quoted_snippet_is_the_one_nearest_to_the_category() -> None:
    texts = ["a bb", "topic3", "topic3 a bb ccc"]
    assert finder(ALL).find(TopicEmbedder().embed(texts), 0.0)[0].snippet == 1


def test_what_the_snippets_share_counts_and_what_differs_does_not() -> None:
    texts = [f"topic0 topic{other}" for other in range(1, 8)]
    found = finder(ALL).find(TopicEmbedder().embed(texts), 0.0)
    assert [item.slug for item in found] == ["c0"]


def test_foreign_text_raises_multilingual_step_by_step_and_nothing_else() -> None:
    options = [*ALL[:-1], option(N_TOPICS - 2, slug=MULTILINGUAL)]
    found = finder(options)
    vectors = TopicEmbedder().embed(["a", "bb", "ccc"])
    confidences = [
        next(
            (item.confidence for item in found.find(vectors, share) if item.slug == MULTILINGUAL), 0
        )
        for share in (0.0, 0.5, 1.0)
    ]
    assert confidences == sorted(confidences)
    without = finder(ALL)
    assert without.find(vectors, 1.0) == without.find(vectors, 0.0)


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=N_TOPICS),
    texts=st.lists(st.sampled_from(["topic0", "topic5 a", "", "bb"]), min_size=1, max_size=4),
    share=st.floats(0, 1),
)
def test_any_taxonomy_gives_finite_scales_and_ordered_answers(
    counts: list[int], texts: list[str], share: float
) -> None:
    options = [option(topic, n) for topic, n in enumerate(counts)]
    found = finder(options)
    assert np.isfinite(found.scale.level).all()
    assert (found.scale.spread > 0).all()
    assert np.isfinite(found.scale.none_threshold)
    answers = found.find(TopicEmbedder().embed(texts), share)
    assert [item.confidence for item in answers] == sorted(
        (item.confidence for item in answers), reverse=True
    )
    assert len({item.slug for item in answers}) == len(answers) <= 3
