from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeler.judge.base import Example, ShownExample
from labeler.labeling.score_examples import Trial
from labeler.labeling.score_statistics import paired_difference, score_of

TEXT = Example("top", "score", ("x",), ("user",), (1.0,))


def trials(*truths: bool) -> list[Trial]:
    return [Trial(ShownExample(str(n), TEXT), truth) for n, truth in enumerate(truths)]


TRUTHS = st.lists(st.booleans(), min_size=2, max_size=40).filter(
    lambda truths: len(set(truths)) == 2
)


@given(TRUTHS, st.booleans())
def test_a_constant_judge_scores_exactly_a_half(truths: list[bool], said: bool) -> None:
    drawn = trials(*truths)
    score = score_of(drawn, {trial.example.id: said for trial in drawn})
    assert score.balanced_accuracy == 0.5


@given(TRUTHS)
def test_a_perfect_judge_scores_one_and_a_contrary_one_zero(truths: list[bool]) -> None:
    drawn = trials(*truths)
    right = {trial.example.id: trial.truth for trial in drawn}
    wrong = {key: not value for key, value in right.items()}
    assert score_of(drawn, right).balanced_accuracy == 1.0
    assert score_of(drawn, wrong).balanced_accuracy == 0.0


@given(TRUTHS, st.data())
def test_the_interval_holds_the_score_and_lies_between_0_and_1(
    truths: list[bool], data: st.DataObject
) -> None:
    drawn = trials(*truths)
    said = {trial.example.id: data.draw(st.booleans()) for trial in drawn}
    score = score_of(drawn, said)
    assert score.balanced_accuracy is not None
    assert score.ci_low is not None
    assert score.ci_high is not None
    assert 0 <= score.ci_low <= score.balanced_accuracy <= score.ci_high <= 1


def test_unanswered_examples_count_as_asked_only() -> None:
    drawn = trials(True, True, False, False)
    score = score_of(drawn, {"0": True, "2": True})
    assert (score.n_asked, score.n_parsed, score.n_positive, score.n_negative) == (4, 2, 1, 1)
    assert score.balanced_accuracy == 0.5


@pytest.mark.parametrize(
    ("truths", "answers", "reason"),
    [
        ([False], {"0": True}, "no positive example in the score half"),
        ([True], {"0": True}, "no negative example in the score half"),
        ([], {}, "no positive example in the score half"),
        ([True, False], {"0": True}, "none of the 1 negative examples was answered"),
        ([True, True, False], {"2": True}, "none of the 2 positive examples was answered"),
    ],
)
def test_undefined_is_undefined_with_its_reason(
    truths: list[bool], answers: dict[str, bool], reason: str
) -> None:
    score = score_of(trials(*truths), answers)
    assert (score.balanced_accuracy, score.ci_low, score.ci_high) == (None, None, None)
    assert score.reason == reason


def test_the_interval_covers_the_true_balanced_accuracy() -> None:
    """Rates 0.8 and 0.6 on 10 examples each: about 95 % of the intervals hold 0.7."""
    generator = np.random.default_rng(0)
    drawn = trials(*[True] * 10, *[False] * 10)
    hits = 0
    for _ in range(600):
        right = generator.random(20) < np.repeat([0.8, 0.6], 10)
        answers = {
            trial.example.id: bool(trial.truth == ok)
            for trial, ok in zip(drawn, right, strict=True)
        }
        score = score_of(drawn, answers)
        assert score.ci_low is not None
        assert score.ci_high is not None
        hits += score.ci_low <= 0.7 <= score.ci_high
    assert 0.92 <= hits / 600 <= 0.99


def test_paired_difference_is_the_t_interval_of_the_sleep_data() -> None:
    """Student (1908): ten differences with mean 1.58, t interval 0.7001 to 2.4599."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = paired_difference(second, first)
    assert found.n == 10
    assert found.difference == pytest.approx(1.58)
    assert found.low == pytest.approx(0.7001142, abs=1e-6)
    assert found.high == pytest.approx(2.4598858, abs=1e-6)


def test_too_few_pairs_have_no_interval() -> None:
    assert paired_difference([], []).difference is None
    one = paired_difference([0.9], [0.5])
    assert (one.difference, one.low) == (pytest.approx(0.4), None)
    with pytest.raises(ValueError, match="in pairs"):
        paired_difference([1.0], [])
