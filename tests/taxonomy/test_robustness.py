from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taxonomy.change import percent_change
from taxonomy.counts import Side
from taxonomy.errors import InputError
from taxonomy.robustness import (
    CategoryKey,
    CountedLabel,
    JudgedLatent,
    SweptLatent,
    correct_changes,
    sweep_changes,
    sweep_thresholds,
)

KEYS = (CategoryKey("behaviour", 1, None), CategoryKey("safety", 2, "behaviour"))
SAFETY = CountedLabel(frozenset({"safety", "behaviour"}), True)
NONE = CountedLabel(frozenset(), True)
BLANK = CountedLabel(frozenset(), False)


def side(
    generator: np.random.Generator, share: float, n_latents: int, n_audited: int
) -> list[JudgedLatent]:
    latents = []
    for index in range(n_latents):
        human = SAFETY if generator.random() < share else NONE
        judge = human if generator.random() < 0.9 else NONE
        audited = index < n_audited
        latents.append(JudgedLatent(judge, human if audited else None, audited))
    return latents


def test_every_seen_category_is_corrected_with_its_parent() -> None:
    generator = np.random.default_rng(1)
    correction = correct_changes(
        [*KEYS, CategoryKey("unseen", 2, "behaviour")],
        side(generator, 0.4, 300, 150),
        side(generator, 0.1, 300, 150),
    )
    assert correction.refusal is None
    assert correction.n_reviewed == (150, 150)
    parent, leaf = correction.rows
    assert (parent.category, leaf.category) == ("behaviour", "safety")
    assert parent.target == leaf.target
    assert leaf.percent_change is not None
    assert leaf.ci_low is not None
    assert leaf.ci_low > 0
    assert leaf.q_value == leaf.p_value < 0.001
    assert leaf.equal_error_p > 0.05


def test_a_side_with_too_few_reviews_stops_the_correction_and_is_named() -> None:
    generator = np.random.default_rng(1)
    correction = correct_changes(KEYS, side(generator, 0.4, 300, 150), side(generator, 0.1, 90, 20))
    assert correction.rows == ()
    assert correction.refusal is not None
    assert correction.refusal.startswith("reference side: 20 of 90")
    assert "target" not in correction.refusal


def test_two_wholly_reviewed_sides_are_the_score_interval_of_the_reviewers_counts() -> None:
    target = [JudgedLatent(NONE, SAFETY)] * 19 + [JudgedLatent(SAFETY, NONE)] * 70
    reference = [JudgedLatent(SAFETY, SAFETY)] * 18 + [JudgedLatent(SAFETY, NONE)] * 94
    correction = correct_changes(KEYS, target, reference)
    assert correction.is_whole == (True, True)
    row = correction.rows[1]
    assert row.percent_change == pytest.approx(100 * ((19 / 89) / (18 / 112) - 1))
    assert (round(row.ci_low or 0), round(row.ci_high or 0)) == (-25, 136)
    assert row.target.share == 19 / 89
    assert row.target_errors.sensitivity == 0.0


def test_decisions_outside_the_random_sample_change_nothing() -> None:
    generator = np.random.default_rng(9)
    target, reference = side(generator, 0.3, 200, 80), side(generator, 0.2, 200, 80)
    before = correct_changes(KEYS, target, reference)
    more = [
        latent if latent.human else JudgedLatent(latent.judge, SAFETY) for latent in target[:150]
    ] + target[150:]
    assert correct_changes(KEYS, more, reference) == before


def test_an_uninterpretable_latent_is_outside_the_denominator() -> None:
    target = [JudgedLatent(SAFETY, SAFETY)] * 10 + [JudgedLatent(NONE, BLANK)] * 10
    reference = [JudgedLatent(SAFETY, SAFETY)] * 5 + [JudgedLatent(NONE, NONE)] * 5
    row = correct_changes(KEYS, target, reference).rows[1]
    assert row.target.share == 1.0
    assert row.reference.share == 0.5


def test_a_comparison_without_latents_is_refused() -> None:
    correction = correct_changes(KEYS, [], [])
    assert correction.rows == ()
    assert correction.refusal is not None


IN_SAFETY = frozenset({"safety"})
NOTHING: frozenset[str] = frozenset()


def ranked(categories: list[bool]) -> list[SweptLatent]:
    """Latents of rising rank, in the category or not."""
    return [
        SweptLatent(rank, IN_SAFETY if inside else NOTHING)
        for rank, inside in enumerate(categories, start=1)
    ]


def test_the_loosest_threshold_is_the_study_itself() -> None:
    target, reference = ranked([True, False] * 20), ranked([True, False, False, False] * 10)
    thresholds = sweep_thresholds(target, reference)
    (swept,) = sweep_changes(["safety"], target, reference, thresholds)
    last = swept.points[-1]
    assert (last.target_count, last.target_total) == (20, 40)
    assert last.percent_change == percent_change(Side(20, 40), Side(10, 40)) == 100.0
    assert last.ci_low is not None
    assert last.ci_low > 0
    assert swept.stability == "stable"
    assert swept.n_same_sign == swept.n_compared > 0


def test_a_sign_that_turns_at_stricter_thresholds_is_unstable() -> None:
    # The most specific half of the reference is all safety, yet over all the target has more.
    target = ranked([False] * 20 + [True] * 20)
    reference = ranked([True] * 15 + [False] * 25)
    (swept,) = sweep_changes(["safety"], target, reference, sweep_thresholds(target, reference, 8))
    assert swept.points[-1].sign == 1
    assert swept.stability == "unstable"
    assert swept.n_same_sign < swept.n_compared


def test_a_handful_of_latents_turns_no_sign() -> None:
    target = ranked([False] * 4 + [True] * 20 + [False] * 16)
    reference = ranked([True] * 4 + [False] * 26 + [True] * 6 + [False] * 4)
    (swept,) = sweep_changes(["safety"], target, reference, (4.0, 40.0))
    assert swept.points[0].sign == -1
    assert swept.stability == "too few to say"


def test_zero_counts_at_strict_thresholds_are_named_by_none() -> None:
    target, reference = ranked([False] * 30 + [True] * 10), ranked([False] * 38 + [True] * 2)
    (swept,) = sweep_changes(["safety"], target, reference, (20.0, 35.0, 40.0))
    first, second, _ = swept.points
    assert (first.percent_change, first.ci_low, first.ci_high, first.sign) == (None, None, None, 0)
    assert (second.percent_change, second.ci_high, second.sign) == (None, None, 1)


@given(
    st.lists(st.tuples(st.floats(0, 5), st.booleans()), min_size=1, max_size=40),
    st.lists(st.tuples(st.floats(0, 5), st.booleans()), min_size=1, max_size=40),
)
def test_counts_only_grow_with_the_threshold(
    target: list[tuple[float, bool]], reference: list[tuple[float, bool]]
) -> None:
    sides = [
        [SweptLatent(value, IN_SAFETY if inside else NOTHING) for value, inside in side]
        for side in (target, reference)
    ]
    thresholds = sweep_thresholds(sides[0], sides[1])
    (swept,) = sweep_changes(["safety"], sides[0], sides[1], thresholds)
    totals = [point.target_total for point in swept.points]
    assert totals == sorted(totals)
    assert totals[-1] == len(target)


def test_a_sweep_needs_finite_strictness() -> None:
    with pytest.raises(InputError, match="needs latents"):
        sweep_thresholds([], [])
    with pytest.raises(InputError, match="finite"):
        sweep_thresholds([SweptLatent(float("nan"), IN_SAFETY)], [])
