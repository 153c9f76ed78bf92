"""q-values and verdicts: one family per level, by independent implementations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from taxonomy.counts import verdict_of
from taxonomy.intervals import adjust_by_level

tested = st.tuples(st.sampled_from([1, 2]), st.one_of(st.none(), st.floats(0, 1)))


@given(st.lists(tested, max_size=20))
def test_q_is_that_of_the_rows_family(rows: list[tuple[int, float | None]]) -> None:
    q_values = adjust_by_level([level for level, _ in rows], [p_value for _, p_value in rows])
    for level in (1, 2):
        members = [i for i, row in enumerate(rows) if row[0] == level and row[1] is not None]
        if members:
            expected = multipletests([rows[i][1] for i in members], method="fdr_bh")[1]
            assert [q_values[i] for i in members] == pytest.approx(list(expected))
    assert all(q_values[i] == 1 for i, row in enumerate(rows) if row[1] is None)


@pytest.mark.parametrize(
    ("rises", "q_value", "least_p", "verdict"),
    [
        (True, 0.049, 0.001, "up"),
        (False, 0.049, 0.001, "down"),
        (True, 0.05, 0.001, "no evidence"),
        (True, 0.001, 0.05, "too few to say"),
    ],
)
def test_a_verdict_needs_q_below_alpha_and_a_table_that_could_get_there(
    rises: bool, q_value: float, least_p: float, verdict: str
) -> None:
    assert verdict_of(rises, q_value, least_p) == verdict
