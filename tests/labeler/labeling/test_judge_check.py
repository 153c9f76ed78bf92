"""What the check of a judge says of good, constant, order-bound and overconfident judges."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from judge_subjects import WordEmbedder
from sqlalchemy import Engine, select

from labeler.cli.main import run
from labeler.judge.base import JudgeReply, JudgeRequest
from labeler.judge.labelled_evidence import fitting_set
from labeler.judge.latents import leaf_options
from labeler.judge.scripted import ScriptedJudge
from labeler.labeling.category_questions import CategoryQuestions, QuestionConfig
from labeler.labeling.judge_check import (
    CONTENT_FREE,
    CheckedLatent,
    JudgeMeasures,
    balanced,
    expected_calibration_error,
    measure_judge,
    store_check,
)
from labeler.store.engine import read_session, write_session
from labeler.store.judge_checks import newest_judge_check, refusal_of
from labeler.store.schema import JudgeCheck
from taxonomy.tree import seed_taxonomy

TAXONOMY = seed_taxonomy()
OPTIONS = leaf_options(TAXONOMY)
LATENTS = balanced(fitting_set(), TAXONOMY)
TRUTH = {latent.subject.latent_index: latent.category for latent in LATENTS}
Answers = Callable[[JudgeRequest], dict[str, object]]


def assigned(slug: str, confidence: float = 0.9) -> dict[str, object]:
    if slug == "none":
        return {"categories": [], "outcome": "none"}
    chosen = {"category": slug, "confidence": confidence, "quote": ""}
    return {"categories": [chosen], "outcome": "assigned"}


def explaining(answers: Answers) -> Callable[[JudgeRequest], dict[str, object]]:
    def reply(request: JudgeRequest) -> dict[str, object]:
        if request.stage == "explain":
            return {"explanation": "something", "interpretable": True, "confidence": 0.9}
        return answers(request)

    return reply


def is_content_free(request: JudgeRequest) -> bool:
    assert request.subject is not None
    return request.subject.crosscoder == "content-free"


def good(request: JudgeRequest) -> dict[str, object]:
    """Right but for every tenth latent, which it takes for safety."""
    assert request.subject is not None
    if is_content_free(request):
        return {"categories": [], "outcome": "uninterpretable"}
    number = request.subject.latent_index
    return assigned("safety" if number % 10 == 0 else TRUTH[number])


def constant(request: JudgeRequest) -> dict[str, object]:
    return assigned("instruction-following")


def first_option(request: JudgeRequest) -> dict[str, object]:
    return assigned(request.options[0].slug)


def overconfident(request: JudgeRequest) -> dict[str, object]:
    """Right for three of five, and always sure."""
    assert request.subject is not None
    number = request.subject.latent_index
    if is_content_free(request):
        return assigned("none")
    wrong = OPTIONS[number % len(OPTIONS)].slug
    return assigned(wrong if number % 5 < 2 else TRUTH[number], 1.0)


def measured(answers: Answers, size: int = 0) -> JudgeMeasures:
    questions = CategoryQuestions(OPTIONS, WordEmbedder(), QuestionConfig(size, labelled=()), False)
    return measure_judge(ScriptedJudge(explaining(answers)), questions, LATENTS)


def test_the_set_has_as_many_latents_of_every_category_and_of_none() -> None:
    counted = Counter(latent.category for latent in LATENTS)
    assert set(counted) == {*(leaf.slug for leaf in TAXONOMY.leaves()), "none"}
    assert set(counted.values()) == {2}


def test_a_good_judge_is_usable_and_its_worth_is_one_line() -> None:
    found = measured(good)
    assert found.verdict == "usable"
    assert found.n_right >= 0.85 * len(LATENTS)
    assert found.n_same_answer == len(found.reordered) == len(LATENTS)
    assert found.n_content_free_assigned == 0
    assert found.calibration_error is not None
    assert found.calibration_error < 0.1
    assert found.words.startswith(f"usable: right for {found.n_right} of 62 labelled latents [")
    assert "\n" not in found.words


def test_a_judge_that_always_says_the_same_is_refused() -> None:
    found = measured(constant)
    assert found.top_answer == ("instruction-following", 62)
    assert found.n_content_free_assigned == len(CONTENT_FREE)
    assert found.verdict == "refused"
    assert found.words == (
        "worth nothing: of 62 labelled latents, it answers 'instruction-following' for 62 of them"
    )


def test_a_judge_that_takes_the_first_option_is_swayed_by_order() -> None:
    found = measured(first_option)
    assert found.n_same_answer < 0.3 * len(found.reordered)
    assert found.top_share < 0.3
    assert found.verdict in ("weak", "refused")
    assert "swayed by the order of the categories" in found.weaknesses


def test_an_overconfident_judge_is_weak_and_its_confidence_says_little() -> None:
    found = measured(overconfident)
    assert found.mean_confidence == 1.0
    assert found.calibration_error is not None
    assert 0.3 < found.calibration_error < 0.5
    assert (found.verdict, found.weaknesses) == ("weak", ("its confidence says little",))


@pytest.mark.slow
def test_a_judge_that_asks_to_see_all_is_judged_by_its_second_answer() -> None:
    def asking(request: JudgeRequest) -> dict[str, object]:
        return {"categories": [], "outcome": "see_all"} if request.further else good(request)

    assert measured(asking, size=3).n_right == measured(good).n_right


def test_a_judge_without_usable_answers_is_refused() -> None:
    silent = ScriptedJudge(lambda _: JudgeReply("parse_error", raw="?", error="no JSON"))
    questions = CategoryQuestions(OPTIONS, WordEmbedder(), QuestionConfig(0), False)
    found = measure_judge(silent, questions, LATENTS[:4])
    assert found.words == (
        "worth nothing: of 4 labelled latents, it gives no usable answer for 4 of them"
    )
    assert (found.top_answer, found.calibration_error) == ((None, 0), None)


def test_a_judge_that_finds_nothing_interpretable_is_refused() -> None:
    blind = {"explanation": "", "interpretable": False, "confidence": 0.1}
    empty: dict[str, object] = {"categories": [], "outcome": "uninterpretable"}
    judge = ScriptedJudge(lambda request: blind if request.stage == "explain" else empty)
    questions = CategoryQuestions(OPTIONS, WordEmbedder(), QuestionConfig(0), False)
    found = measure_judge(judge, questions, LATENTS)
    assert found.top_answer == ("uninterpretable", 62)
    assert found.verdict == "refused"


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([(0.9, True)] * 9 + [(0.9, False)], 0.0),
        ([(1.0, True), (1.0, False)], 0.5),
        ([(0.2, False)] * 4 + [(0.8, True)] * 4, 0.2),
    ],
)
def test_calibration_error(answers: list[tuple[float, bool]], error: float) -> None:
    assert expected_calibration_error(answers) == pytest.approx(error)


def test_a_judge_at_chance_is_refused() -> None:
    latents = tuple(CheckedLatent(f"c{n}", f"c{n + 1 if n else 0}") for n in range(30))
    assert (
        JudgeMeasures("j", latents, (), 1 / 30).refusal
        == "is right for 1 of them, no more than by chance"
    )


def test_the_newest_check_of_a_judge_is_stored(engine: Engine) -> None:
    judge = ScriptedJudge(explaining(good))
    with write_session(engine) as session:
        store_check(session, judge.identity, measured(constant))
        judge_id = session.scalars(select(JudgeCheck.judge_id)).one()
        refusal = refusal_of(session, judge_id)
        assert refusal is not None
        assert refusal.startswith("`difflens judge check` refused this judge: worth nothing: of 62")
        store_check(session, judge.identity, measured(good))
        assert refusal_of(session, judge_id) is None
    with read_session(engine) as session:
        row = session.scalars(select(JudgeCheck).order_by(JudgeCheck.id.desc())).first()
        assert row is not None
        newest = newest_judge_check(session, row.judge_id)
        assert newest is not None
        assert (newest.verdict, newest.n_latents, newest.n_content_free) == ("usable", 62, 5)
        assert newest_judge_check(session, row.judge_id + 1) is None


def scripted_study(folder: Path, lines: list[dict[str, object]]) -> str:
    script = folder / "script.jsonl"
    script.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    study = folder / "study.toml"
    study.write_text(
        '[judge]\nkind = "scripted"\nscript = "script.jsonl"\n[embedding]\nkind = "tfidf"\n',
        encoding="utf-8",
    )
    return str(study)


@pytest.mark.slow
def test_the_command_refuses_a_constant_judge_and_stores_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = scripted_study(
        tmp_path,
        [
            {"stage": "explain",
             "answer": {"explanation": "x", "interpretable": True, "confidence": 1}},
            {"stage": "categorize", "answer": assigned("safety")},
        ],
    )  # fmt: skip
    assert run(["judge", "check", study]) == 1
    printed = capsys.readouterr()
    assert "no sentence model, so the judge is shown every category" in printed.out
    assert printed.err.splitlines()[-1] == (
        "difflens: scripted: worth nothing: of 62 labelled latents, it answers 'safety' for 62 of "
        "them; name another model in judge.model"
    )
    assert run(["sql", study, "SELECT verdict, n_top_answer FROM judge_check"]) == 0
    assert "refused" in capsys.readouterr().out
