from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_subjects import window

from labeler.judge.base import Example, ShownExample
from labeler.judge.rendering import MARK_SHARE
from labeler.labeling.trials import Trial, draw_trials, paired_difference, score_of

LENGTH = 32
WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "then", "it", "left")


def random_window(generator: np.random.Generator, number: int) -> Example:
    """Words with one or two firing runs, the strongest in the middle, as evidence has it."""
    tokens = [f" {WORDS[at]}{number}" for at in generator.integers(len(WORDS), size=LENGTH)]
    activations = [0.0] * LENGTH
    middle = LENGTH // 2
    for at in range(middle, middle + int(generator.integers(1, 4))):
        activations[at] = 4.0
    if generator.integers(2):
        activations[int(generator.integers(4, 12))] = 3.0
    return Example("top", "score", tuple(tokens), ("assistant",) * LENGTH, tuple(activations))


def right_marks(window: Example) -> set[int]:
    return {
        at for at, value in enumerate(window.activations) if value > MARK_SHARE * window.peak > 0
    }


def trials(method: str, windows: list[Example], limit: int = 20) -> tuple[Trial, ...]:
    return draw_trials(method, windows, limit, seed=0)  # type: ignore[arg-type]


def many_trials(n: int = 400) -> list[Trial]:
    generator = np.random.default_rng(1)
    windows = [random_window(generator, number) for number in range(n)]
    return list(draw_trials("fuzzing", windows, n, seed=3))


def auc(positive: list[float], negative: list[float]) -> float:
    """Probability that a positive value exceeds a negative one, ties half."""
    first, second = np.asarray(positive)[:, None], np.asarray(negative)[None, :]
    return float((first > second).mean() + 0.5 * (first == second).mean())


def test_detection_asks_about_text_that_fires_and_text_that_never_does() -> None:
    windows = [
        *(window(f"says <<sorry>> {n}", split="score") for n in range(6)),
        *(window(f"quite calm {n}", kind="negative", split="score") for n in range(6)),
        window("the twin's text", kind="other_model", split="score"),
    ]
    drawn = trials("detection", windows, limit=10)
    assert len(drawn) == 10
    assert sum(trial.truth for trial in drawn) == 5
    assert all(trial.truth == (trial.example.window.peak > 0) for trial in drawn)
    assert all(not trial.example.marks for trial in drawn)


def test_text_on_which_only_the_template_fires_is_not_asked_about() -> None:
    hidden = Example("top", "score", ("<s>", "hello"), ("bos", "user"), (2.0, 0.0))
    assert trials("detection", [hidden]) == ()
    assert trials("fuzzing", [hidden]) == ()


def test_every_text_is_asked_about_once() -> None:
    same = [
        window("says <<sorry>> twice", split="score", kind=kind) for kind in ("top", "quantile")
    ]
    assert len(trials("detection", same)) == 1


def test_ids_tell_nothing() -> None:
    windows = [
        *(window(f"says <<sorry>> {n}", split="score") for n in range(40)),
        *(window(f"quite calm {n}", kind="negative", split="score") for n in range(40)),
    ]
    drawn = trials("detection", windows, limit=80)
    assert [trial.example.id for trial in drawn] == [str(n) for n in range(1, 81)]
    right = [float(trial.example.id) for trial in drawn if trial.truth]
    wrong = [float(trial.example.id) for trial in drawn if not trial.truth]
    assert 0.35 < auc(right, wrong) < 0.65


def test_the_draw_hangs_on_evidence_and_seed_alone() -> None:
    windows = [window(f"says <<sorry>> {n} times or more", split="score") for n in range(6)]
    assert trials("fuzzing", windows) == trials("fuzzing", windows)
    assert draw_trials("fuzzing", windows, 6, seed=1) != draw_trials("fuzzing", windows, 6, seed=2)


@given(st.integers(0, 2**32 - 1))
def test_wrong_marks_have_number_shape_and_role_of_the_right_ones_and_never_fire(seed: int) -> None:
    generator = np.random.default_rng(seed)
    one = random_window(generator, seed)
    roles = tuple("user" if at < 14 else "assistant" for at in range(LENGTH))
    mixed = Example("top", "score", one.tokens, roles, one.activations)
    for number in range(4):
        for trial in draw_trials("fuzzing", [mixed], 1, seed=number):
            shown, marks = trial.example.window, trial.example.marks
            right = right_marks(mixed)
            assert len(marks) == len(right)
            fires = {shown.activations[at] > 0 for at in marks}
            assert fires == {trial.truth}
            of_role = sorted(shown.roles[at] for at in marks)
            assert of_role == sorted(mixed.roles[at] for at in right)


def test_half_of_the_marks_are_right() -> None:
    drawn = many_trials(101)
    assert abs(sum(trial.truth for trial in drawn) - len(drawn) / 2) <= 0.5


def test_a_place_in_the_text_does_not_tell_right_from_wrong_marks() -> None:
    """A judge that looks at positions alone is at chance, whichever feature it takes."""
    drawn = many_trials()
    places = {
        "first": lambda t: min(t.example.marks) / len(t.example.window.tokens),
        "last": lambda t: max(t.example.marks) / len(t.example.window.tokens),
        "distance from the middle": lambda t: abs(
            float(np.mean(sorted(t.example.marks))) - len(t.example.window.tokens) / 2
        ),
        "number": lambda t: len(t.example.marks),
        "length": lambda t: len(t.example.window.tokens),
    }
    for name, place in places.items():
        right = [float(place(trial)) for trial in drawn if trial.truth]
        wrong = [float(place(trial)) for trial in drawn if not trial.truth]
        assert 0.4 < auc(right, wrong) < 0.6, name


def test_no_position_is_marked_every_time() -> None:
    wrong = [trial for trial in many_trials(100) if not trial.truth]
    for position in range(LENGTH):
        assert sum(position in trial.example.marks for trial in wrong) < len(wrong) / 3


def test_a_text_that_fires_everywhere_has_no_room_for_wrong_marks() -> None:
    full = Example("top", "score", (" a", " b"), ("user",) * 2, (1.0, 1.0))
    assert trials("fuzzing", [full]) == ()


@pytest.mark.parametrize("method", ["detection", "fuzzing"])
def test_no_windows_no_trials(method: str) -> None:
    assert trials(method, []) == ()


TEXT = Example("top", "score", ("x",), ("user",), (1.0,))


def answered_trials(*truths: bool) -> list[Trial]:
    return [Trial(ShownExample(str(n), TEXT), truth) for n, truth in enumerate(truths)]


TRUTHS = st.lists(st.booleans(), min_size=2, max_size=40).filter(
    lambda truths: len(set(truths)) == 2
)


@given(TRUTHS, st.booleans())
def test_a_constant_judge_scores_exactly_a_half(truths: list[bool], said: bool) -> None:
    drawn = answered_trials(*truths)
    score = score_of(drawn, {trial.example.id: said for trial in drawn})
    assert score.balanced_accuracy == 0.5


@given(TRUTHS)
def test_a_perfect_judge_scores_one_and_a_contrary_one_zero(truths: list[bool]) -> None:
    drawn = answered_trials(*truths)
    right = {trial.example.id: trial.truth for trial in drawn}
    wrong = {key: not value for key, value in right.items()}
    assert score_of(drawn, right).balanced_accuracy == 1.0
    assert score_of(drawn, wrong).balanced_accuracy == 0.0


@given(TRUTHS, st.data())
def test_the_interval_holds_the_score_and_lies_between_0_and_1(
    truths: list[bool], data: st.DataObject
) -> None:
    drawn = answered_trials(*truths)
    said = {trial.example.id: data.draw(st.booleans()) for trial in drawn}
    score = score_of(drawn, said)
    assert score.balanced_accuracy is not None
    assert score.ci_low is not None
    assert score.ci_high is not None
    assert 0 <= score.ci_low <= score.balanced_accuracy <= score.ci_high <= 1


def test_unanswered_examples_count_as_asked_only() -> None:
    drawn = answered_trials(True, True, False, False)
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
    score = score_of(answered_trials(*truths), answers)
    assert (score.balanced_accuracy, score.ci_low, score.ci_high) == (None, None, None)
    assert score.reason == reason


def test_the_interval_covers_the_true_balanced_accuracy() -> None:
    """Rates 0.8 and 0.6 on 10 examples each: about 95 % of the intervals hold 0.7."""
    generator = np.random.default_rng(0)
    drawn = answered_trials(*[True] * 10, *[False] * 10)
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
