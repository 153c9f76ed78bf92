from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taxonomy.change import percent_change
from taxonomy.counts import Side
from taxonomy.errors import InputError
from taxonomy.threshold_sweep import SweptLatent, sweep_changes, sweep_thresholds

SAFETY = frozenset({"safety"})
NOTHING: frozenset[str] = frozenset()


def ranked(categories: list[bool]) -> list[SweptLatent]:
    """Latents of rising rank, in the category or not."""
    return [
        SweptLatent(rank, SAFETY if inside else NOTHING)
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
        [SweptLatent(value, SAFETY if inside else NOTHING) for value, inside in side]
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
        sweep_thresholds([SweptLatent(float("nan"), SAFETY)], [])
