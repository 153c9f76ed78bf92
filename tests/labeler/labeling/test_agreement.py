from __future__ import annotations

import random

import pytest
from evidence_seeding import begin
from hypothesis import given, settings
from hypothesis import strategies as st
from seeding import Seed, label, record_call, rows, seed
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from labeler.labeling.agreement import as_units, nominal_alpha, read_agreement
from labeler.store.engine import write_session
from labeler.store.judging import CallRow
from labeler.store.schema import Comparison, JudgeLabel, LabelSample


def columns(*raters: str) -> list[list[str | None]]:
    """Units from one line per rater; a dot is a missing answer."""
    lines = [line.split() for line in raters]
    return [
        [None if value == "." else value for value in unit] for unit in zip(*lines, strict=True)
    ]


@pytest.mark.parametrize(
    ("units", "alpha"),
    [
        # Krippendorff 2011, section A: binary data, two observers.
        (columns("0 1 0 0 0 0 0 0 1 0", "1 1 1 0 0 1 0 0 0 0"), 0.095),
        # Section B: nominal data, two observers.
        (columns("a a b b d c c c e d d a", "b a b b b c c c e d d d"), 0.692),
        # Section C: nominal data, four observers, missing values.
        (
            columns(
                "1 2 3 3 2 1 4 1 2 . . .",
                "1 2 3 3 2 2 4 1 2 5 . 3",
                ". 3 3 3 2 3 4 2 2 5 1 .",
                "1 2 3 3 2 4 4 1 2 5 1 .",
            ),
            0.743,
        ),
    ],
)
def test_alpha_is_the_published_one(units: list[list[str | None]], alpha: float) -> None:
    found = nominal_alpha(units)
    assert found.alpha == pytest.approx(alpha, abs=0.0006)
    assert found.reason is None
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert found.ci_low <= found.alpha <= found.ci_high <= 1


def test_units_with_one_answer_say_nothing() -> None:
    some = columns("a b a c a", "a b b c a")
    more = [*some, ["z", None], [None, None]]
    assert nominal_alpha(more) == nominal_alpha(some)
    assert nominal_alpha(some).n_units == 5


@pytest.mark.parametrize(
    ("units", "reason"),
    [
        ([], "fewer than two judges or samples"),
        ([["a"], ["b"]], "fewer than two judges or samples"),
        (columns("a . a", ". b ."), "no latent has two answers"),
        (columns("a a a", "a a a"), "all answers are the same category"),
    ],
)
def test_undefined_is_undefined_with_its_reason(units: list[list[str | None]], reason: str) -> None:
    found = nominal_alpha(units)
    assert (found.alpha, found.ci_low, found.reason) == (None, None, reason)


def test_perfect_agreement_is_one_and_contradiction_lies_below_zero() -> None:
    assert nominal_alpha(columns("a b a b", "a b a b")).alpha == 1.0
    against = nominal_alpha(columns("a b a b", "b a b a")).alpha
    assert against is not None
    assert against < 0


def test_few_latents_have_no_interval() -> None:
    few = nominal_alpha(columns("a b a", "a b b"))
    assert few.alpha is not None
    assert (few.ci_low, few.ci_high) == (None, None)


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from("abc"), min_size=3, max_size=3), min_size=2, max_size=12))
def test_the_order_of_raters_and_units_does_not_matter(values: list[list[str]]) -> None:
    units: list[list[str | None]] = [list(unit) for unit in values]
    turned = [unit[::-1] for unit in units[::-1]]
    one, other = nominal_alpha(units, n_draws=0), nominal_alpha(turned, n_draws=0)
    assert one.reason == other.reason
    if one.alpha is not None:
        assert other.alpha == pytest.approx(one.alpha)
        assert one.alpha <= 1


def test_units_keep_raters_in_one_order() -> None:
    assert as_units({2: {"b": "x"}, 1: {"a": "y", "b": "z"}}) == [["y", "z"], [None, "x"]]


def sample(session: Session, made: Seed, written: JudgeLabel, number: int, answer: str) -> None:
    call = record_call(
        session,
        CallRow(
            made.judge_id, f"{written.id:032d}{number:032d}", "categorize", made.run_id, "ok", "{}",
            sample=number,
        ),
    )  # fmt: skip
    session.add(
        LabelSample(
            run_id=made.run_id,
            latent_id=written.latent_id,
            judge_id=made.judge_id,
            taxonomy_version_id=made.version_id,
            explanation_id=written.explanation_id,
            judge_call_id=call.id,
            sample=number,
            outcome="assigned" if answer in made.categories else answer,
            category_id=made.categories.get(answer),
        )
    )
    session.flush()


def test_agreement_of_judges_and_of_samples_is_read_from_the_labels(engine: Engine) -> None:
    begin(engine)
    with write_session(engine) as session:
        made = seed(session, 2, 2)
        latents = [*made.target, *made.reference]
        first = ("safety", "humour", "none", "lists")
        second = ("safety", "humour", "lists", "error")
        for latent, mine, other in zip(latents, first, second, strict=True):
            written = label(session, made, latent, mine)
            label(session, made, latent, other, judge_id=made.other_judge_id)
            sample(session, made, written, 1, "safety")
        comparison = session.get_one(Comparison, made.comparison_id)
        judges, samples = read_agreement(session, comparison)
        viewed = rows(
            session,
            "SELECT raters, alpha, n_latents, n_answers, n_raters, n_categories,"
            " reason FROM v_judge_agreement ORDER BY raters",
        )
        queue = rows(session, "SELECT latent_id, reason, disagreement FROM v_review_queue")
    assert (judges.raters, judges.agreement.n_units, judges.agreement.n_raters) == ("judges", 3, 2)
    assert (
        judges.agreement.alpha
        == nominal_alpha(columns("safety humour none", "safety humour lists")).alpha
    )
    assert samples.raters == "samples of evidence-tfidf"
    assert (
        samples.agreement.alpha
        == nominal_alpha(columns("safety humour none lists", "safety safety safety safety")).alpha
    )
    for row, expected in zip(viewed, (judges, samples), strict=True):
        computed = expected.agreement
        assert (row[0], *row[2:]) == (
            expected.raters, computed.n_units, computed.n_answers, computed.n_raters,
            computed.n_categories, None,
        )  # fmt: skip
        assert row[1] == pytest.approx(computed.alpha)
    found = {latent: (reason, round(share, 6)) for latent, reason, share in queue}
    assert found[latents[0]] == ("not reviewed", 0.0)
    assert found[latents[1]] == ("judges disagree", round(1 / 3, 6))
    assert found[latents[2]] == ("judges disagree", round(2 / 3, 6))
    assert found[latents[3]] == ("judges disagree", 0.5)


@pytest.mark.parametrize(
    ("mine", "others", "reason"),
    [
        (("safety", "humour"), (None, None), "fewer than two judges or samples"),
        (("safety", None), (None, "humour"), "no latent has two answers"),
        (("safety", "none"), ("safety", "error"), "all answers are the same category"),
        (("error", "error"), ("error", "error"), "fewer than two judges or samples"),
    ],
)
def test_the_view_says_why_agreement_is_undefined(
    engine: Engine,
    mine: tuple[str | None, ...],
    others: tuple[str | None, ...],
    reason: str,
) -> None:
    with write_session(engine) as session:
        made = seed(session, 1, 1)
        for latent, one, other in zip((*made.target, *made.reference), mine, others, strict=True):
            for judge_id, answer in ((made.judge_id, one), (made.other_judge_id, other)):
                if answer is not None:
                    label(session, made, latent, answer, judge_id=judge_id)
        comparison = session.get_one(Comparison, made.comparison_id)
        (found,) = read_agreement(session, comparison)
        viewed = rows(session, "SELECT comparison, raters, alpha, reason FROM v_judge_agreement")
    assert found.agreement.reason == reason
    assert viewed == [("c", "judges", None, reason)]


@pytest.mark.slow
def test_view_and_python_agree_on_many_latents(engine: Engine) -> None:
    draw = random.Random(3)
    with write_session(engine) as session:
        made = seed(session, 20, 20)
        answers = [*made.categories, "none", "uninterpretable", "error"]
        for latent in (*made.target, *made.reference):
            for judge_id in (made.judge_id, made.other_judge_id):
                for _ in range(draw.randrange(3)):
                    written = label(session, made, latent, draw.choice(answers), judge_id)
                    label(session, made, latent, "lists", judge_id, is_control=True)
                    if judge_id == made.judge_id and draw.random() < 0.7:
                        sample(session, made, written, draw.randrange(1, 4), draw.choice(answers))
        comparison = session.get_one(Comparison, made.comparison_id)
        computed = read_agreement(session, comparison)
        viewed = rows(
            session,
            "SELECT raters, alpha, n_latents, n_answers, n_raters, n_categories"
            " FROM v_judge_agreement ORDER BY raters",
        )
    assert [row[0] for row in viewed] == ["judges", "samples of evidence-tfidf"]
    for row, expected in zip(viewed, computed, strict=True):
        found = expected.agreement
        assert found.n_units > 8
        assert row[1] == pytest.approx(found.alpha)
        assert row[2:] == (found.n_units, found.n_answers, found.n_raters, found.n_categories)
