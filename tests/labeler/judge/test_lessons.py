"""What reviews teach: the head of the evidence judge, and the prompts of other judges."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from judge_subjects import OPTIONS, refusals, subject, window

from labeler.embedding.base import Vectors, normalised
from labeler.judge.base import CategoryOption, JudgeIdentity, LatentRecord
from labeler.judge.embedding_judge import EvidenceJudge
from labeler.judge.labelled_evidence import NONE, LabelledLatent
from labeler.judge.lessons import FOLDS, Lesson, Lessons, fold_of, reviewed_latents
from labeler.judge.prompts import categorize_request, tokens_of

RECIPES = CategoryOption("recipes", "Recipes", None, "Text about food.", prototypes=("food",))
TOOLS = CategoryOption("tools", "Tools", None, "Text about tools.", prototypes=("tool",))
PLANTS = CategoryOption("plants", "Plants", None, "Text about plants.", prototypes=("plant",))
OWN = (RECIPES, TOOLS, PLANTS)
WORDS = {
    "recipes": ("onion", "butter", "soup", "bread", "basil", "garlic"),
    "tools": ("hammer", "wrench", "drill", "pliers", "chisel", "level"),
    "plants": ("fern", "oak", "moss", "tulip", "ivy", "reed"),
}
EVIDENCE = JudgeIdentity("evidence-words", "words", "evidence")
PROMPTED = JudgeIdentity("gpt", "gpt", "openai")


class TopicOfWords:
    """Words of one topic are near each other; the categories' own texts are near none of them."""

    name = "topics"
    fingerprint = "topics-1"

    def embed(self, texts: Sequence[str]) -> Vectors:
        return normalised(np.array([self._vector(text) for text in texts]).reshape(-1, 16))

    def _vector(self, text: str) -> np.ndarray:
        found = np.full(16, 0.05)
        for place, words in enumerate(WORDS.values()):
            found[place] += sum(word in text for word in words)
        found[15] += 0.5
        return found


def latent(category: str, number: int) -> LabelledLatent:
    words = WORDS[category]
    texts = [f"there is a <<{words[(row + number) % 6]}>> on day {row}" for row in range(4)]
    record = replace(subject([window(text) for text in texts]), latent_index=number)
    return LabelledLatent(f"{category}-{number}", category, record)


def reviews(n: int) -> list[LabelledLatent]:
    return [latent(category, 10 * row + n) for n in range(n) for row, category in enumerate(WORDS)]


def answers(lesson: Lesson | None, asked: Sequence[LabelledLatent]) -> list[str]:
    judge = EvidenceJudge(TopicOfWords(), labelled=())
    given = []
    for each in asked:
        request = replace(categorize_request(each.subject, "", OWN), lesson=lesson)
        parsed = asyncio.run(judge.ask(request)).parsed
        assert parsed is not None
        given.append(parsed["categories"][0]["category"] if parsed["categories"] else NONE)
    return given


def test_no_latent_learns_from_a_review_of_its_own_part() -> None:
    lessons = Lessons(reviews(8))
    for each in lessons.reviewed:
        lesson = lessons.for_latent(each.subject)
        assert lesson is not None
        assert {one.name for one in lesson.latents} == {
            one.name for one in lessons.reviewed if fold_of(one.subject) != fold_of(each.subject)
        }


def test_a_latent_without_a_review_learns_from_as_many_parts() -> None:
    lessons = Lessons(reviews(8))
    others = [latent("tools", number) for number in range(500, 560)]
    taught = {lessons.for_latent(other.subject) for other in others}
    assert len({fold_of(other.subject) for other in others}) == FOLDS
    assert all(each is not None and each.latents != lessons.reviewed for each in taught)


def test_nothing_is_taught_before_the_first_review() -> None:
    assert Lessons(()).for_latent(latent("tools", 1).subject) is None
    alone = latent("tools", 1)
    assert Lessons([alone]).for_latent(alone.subject) is None


def test_latents_without_evidence_teach_nothing() -> None:
    empty = LatentRecord(1, "cc", 1, ())
    kept = reviewed_latents([empty, latent("tools", 2).subject], ["tools", "tools"])
    assert [each.name for each in kept] == [f"{kept[0].subject.crosscoder}:2"]


@pytest.mark.slow
def test_a_users_own_taxonomy_improves_with_its_reviews() -> None:
    asked = [latent(category, 100 + n) for category in WORDS for n in range(3)]
    truth = [each.category for each in asked]
    before = answers(None, asked)
    after = answers(Lesson(tuple(reviews(3))), asked)
    assert sum(map(str.__eq__, before, truth)) <= 3
    assert sum(map(str.__eq__, after, truth)) == len(truth)


@pytest.mark.slow
def test_the_judge_says_how_far_its_choice_is_open() -> None:
    judge = EvidenceJudge(TopicOfWords(), labelled=())
    doubts = []
    for lesson in (Lesson(tuple(reviews(3))), None):
        request = categorize_request(latent("tools", 7).subject, "", OWN)
        parsed = asyncio.run(judge.ask(replace(request, lesson=lesson))).parsed
        assert parsed is not None
        doubts.append(parsed["doubt"])
    assert 0 <= doubts[0] < 0.1
    assert 0 <= doubts[1] <= 1


def test_other_lessons_are_another_question() -> None:
    request = categorize_request(subject(refusals()), "apologies", OPTIONS)
    first, second = Lesson(tuple(reviews(1))), Lesson(tuple(reviews(2)))
    hashes = [replace(request, lesson=one).sha256(EVIDENCE) for one in (None, first, second)]
    assert len(set(hashes)) == 3
    # A judge that reads prompts is taught by its prompt alone.
    assert replace(request, lesson=first).sha256(PROMPTED) == request.sha256(PROMPTED)


def test_a_prompt_shows_reviewed_latents_with_their_categories_inside_the_frame() -> None:
    plain = categorize_request(subject(refusals()), "apologies", OPTIONS)
    taught = categorize_request(
        subject(refusals()), "apologies", OPTIONS, reviewed=[latent("tools", 1)]
    )
    user = taught.messages[1].content
    assert "[r1] reviewed: tools\n  assistant: there is a <<chisel>> on day 3\n" in user
    assert user.index(taught.token or "") < user.index("[r1]") < user.index("explanation:")
    assert "[r1] opens another latent" in taught.messages[0].content
    assert "[r1]" not in plain.messages[0].content + plain.messages[1].content


@pytest.mark.parametrize("limit", [400, 500, 1000])
def test_reviewed_latents_give_way_to_the_latents_own_texts(limit: int) -> None:
    long = " ".join(["word"] * 60)
    asked = subject([window(f"{long} <<stop>> {n}") for n in range(5)])
    examples = [latent("tools", 1), latent("tools", 2), latent("plants", 3)]
    request = categorize_request(asked, "stop", OPTIONS, limit=limit, reviewed=examples)
    user = request.messages[1].content
    assert "[t1]" in user
    assert ("[r3]" in user) == (limit == 1000)
    if limit > 400:
        assert tokens_of(request) <= limit
