"""A judge that reads prompts gets a shortlist in an order of the latent, and may see all."""

from __future__ import annotations

from collections import Counter

import pytest
from evidence_seeding import add_windows, begin, distinct_windows
from judge_subjects import COOKING, MULTILINGUAL, OPTIONS, SAFETY, WordEmbedder, refusals, subject
from seeding import seed
from sqlalchemy import Engine, select

from labeler.embedding.base import Embedder
from labeler.embedding.embedders import TfidfEmbedder
from labeler.judge.base import CategoryOption, JudgeRequest, LatentRecord
from labeler.judge.scripted import ScriptedJudge
from labeler.labeling.categorize import CategorizeConfig, categorize
from labeler.labeling.category_questions import (
    CategoryQuestions,
    QuestionConfig,
    shuffled_options,
)
from labeler.labeling.explain import label_latents
from labeler.store.engine import read_session, write_session
from labeler.store.schema import JudgeCall, JudgeLabel

MANY = tuple(CategoryOption(f"c{number}", f"C{number}", None, "") for number in range(9))


def questions(
    size: int, embedder: Embedder | None = None, reads_windows: bool = False
) -> CategoryQuestions:
    config = QuestionConfig(shortlist=size, labelled=())
    return CategoryQuestions(OPTIONS, embedder or WordEmbedder(), config, reads_windows)


def slugs(request: JudgeRequest) -> set[str]:
    return {option.slug for option in request.options}


def test_the_nearest_categories_are_shown_and_the_others_named() -> None:
    request = questions(1).first(subject(refusals()), "apologies", 0)
    assert slugs(request) == {"safety"}
    assert request.further == ("cooking", "multilingual")
    user = request.messages[1].content
    assert SAFETY.definition in user
    assert COOKING.definition not in user
    assert "show me their definitions: cooking, multilingual" in user


def test_all_are_shown_to_a_judge_that_asks() -> None:
    asking = questions(1)
    whole = asking.whole(asking.first(subject(refusals()), "apologies", 0))
    assert slugs(whole) == {"safety", "cooking", "multilingual"}
    assert whole.further == ()
    assert "see_all" not in whole.messages[1].content


def test_an_explanation_stands_in_for_missing_texts() -> None:
    request = questions(1).first(subject([]), "bread in the oven, with butter and salt", 0)
    assert slugs(request) == {"cooking"}


def test_without_a_sentence_model_all_are_shown_and_it_is_said() -> None:
    asking = questions(1, TfidfEmbedder(["calm words", "others"]))
    assert len(asking.first(subject(refusals()), "x", 0).options) == 3
    assert asking.note == "no sentence model, so the judge is shown every category"


@pytest.mark.parametrize("size", [0, 3, 8])
def test_no_shortlist_where_none_is_wanted_or_all_fit_in_it(size: int) -> None:
    asking = questions(size, TfidfEmbedder(["calm words", "others"]))
    assert len(asking.first(subject(refusals()), "x", 0).options) == 3
    assert asking.note is None


def test_a_judge_that_reads_windows_gets_all_in_the_taxonomys_order() -> None:
    request = questions(1, reads_windows=True).first(subject(refusals()), "x", 0)
    assert request.options == (SAFETY, COOKING, MULTILINGUAL)


def test_the_order_is_the_latents_own_and_comes_again() -> None:
    latents = [LatentRecord(1, "cc", number, ()) for number in range(200)]
    orders = [shuffled_options(MANY, latent, 0) for latent in latents]
    assert orders == [shuffled_options(MANY[::-1], latent, 0) for latent in latents]
    first = Counter(order[0].slug for order in orders)
    assert len(first) == len(MANY)
    assert max(first.values()) < 60
    assert shuffled_options(MANY, latents[0], 1) != orders[0]


def reply(request: JudgeRequest) -> dict[str, object]:
    """Sees only the category `humour` fit, and asks for it where it is not shown."""
    if request.stage == "explain":
        return {"explanation": "says words", "interpretable": True, "confidence": 0.5}
    if "humour" not in slugs(request):
        return {"categories": [], "outcome": "see_all"}
    chosen = {"category": "humour", "confidence": 0.8, "quote": ""}
    return {"categories": [chosen], "outcome": "assigned"}


def test_the_label_of_a_judge_that_saw_all_is_that_of_its_second_answer(engine: Engine) -> None:
    with write_session(engine) as session:
        made = seed(session, 2, 1)
        for number, latent_id in enumerate((*made.target, *made.reference)):
            add_windows(session, made.run_id, latent_id, distinct_windows(f"word{number}"))
    judge = ScriptedJudge(reply)
    label_latents(engine, judge, begin(engine), [*made.target, *made.reference])
    config = CategorizeConfig(questions=QuestionConfig(shortlist=1, labelled=()), repeats=2)

    def categorized() -> tuple[int, int, int]:
        summary = categorize(
            engine, judge, WordEmbedder(), made.version_id, [made.comparison_id],
            begin(engine, "categorize"), config,
        )  # fmt: skip
        return summary.n_assigned, summary.n_saw_all, summary.n_reused

    n_assigned, n_saw_all, _ = categorized()
    assert n_assigned == 3
    assert n_saw_all > 0
    n_asked = len(judge.asked)
    assert categorized() == (3, n_saw_all, 3)
    assert len(judge.asked) == n_asked
    with read_session(engine) as session:
        labels = list(session.scalars(select(JudgeLabel)))
        assert {label.outcome for label in labels} == {"assigned"}
        assert len(labels) == 3
        for label in labels:
            call = session.get_one(JudgeCall, label.judge_call_id)
            assert call.options is not None
            assert "humour" in call.options
