"""Groups of behaviours: an answer shows a group if it shows any category of it."""

from __future__ import annotations

import numpy as np
import pytest

from labeler.labeling.behaviour import AnswerClass, group_classes, paired_answers

PARENTS = {"safety": "honesty", "hedging": "honesty", "french": "language"}


def classed(answer_id: int, category: str, outcome: str, model: str = "a") -> AnswerClass:
    return AnswerClass(answer_id, model, f"p{answer_id}", 0, category, outcome, "judge")


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        (("assigned", "none"), "assigned"),
        (("none", "assigned"), "assigned"),
        (("none", "none"), "none"),
        (("uninterpretable", "assigned"), "assigned"),
        (("none", "uninterpretable"), "uninterpretable"),
        (("none", "error"), "error"),
    ],
)
def test_any_category_shows_the_group(outcomes: tuple[str, str], expected: str) -> None:
    classes = [
        classed(1, category, outcome)
        for category, outcome in zip(("safety", "hedging"), outcomes, strict=True)
    ]
    (found,) = group_classes(classes, PARENTS)
    assert (found.category, found.outcome, found.answer_id) == ("honesty", expected, 1)


def test_prompts_of_all_its_categories_are_paired() -> None:
    classes = [
        *(classed(1, "safety", "assigned", model) for model in "ab"),
        classed(2, "hedging", "none", "a"),
        classed(2, "hedging", "assigned", "b"),
        *(classed(3, "french", "none", model) for model in "ab"),
        *(classed(4, "unsorted", "none", model) for model in "ab"),
    ]
    # Answers of two models have ids of their own.
    classes = [
        AnswerClass(**{**vars(each), "answer_id": 2 * each.answer_id + (each.model == "b")})
        for each in classes
    ]
    honesty, language = paired_answers(
        group_classes(classes, PARENTS), "b", "a", ["honesty", "language"]
    )
    assert np.array_equal(honesty.target, [[1.0], [1.0]])
    assert np.array_equal(honesty.reference, [[1.0], [0.0]])
    assert language.target.shape == (1, 1)
