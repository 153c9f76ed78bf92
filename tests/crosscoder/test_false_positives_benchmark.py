"""What the benchmark of false positives makes of its studies."""

from __future__ import annotations

import false_positives
import pytest
from false_positives import STATISTICS, _is_called, _powers, _rate
from null_pairs import Called, Result, permuted_calls

QUIET = Called("no evidence", 0.0, 1.0, 1.0, "no evidence", 0.0, 1.0)
UP = Called("up", 9.0, 0.001, 0.001, "no evidence", 0.0, 1.0)
STRONGER = Called("no evidence", 0.0, 1.0, 1.0, "up", 0.1, 0.01)


def result(of: str, **calls: Called) -> Result:
    return Result("pair", "smollm2", "dose", of, 1.0, 40, 40, calls)


def test_rate_has_the_interval_of_clopper_and_pearson() -> None:
    found = _rate([True, *[False] * 59])
    assert (found["called"], found["of"]) == (1, 60)
    assert found["interval"] == pytest.approx([0.0004, 0.0894], abs=1e-4)
    assert _rate([])["rate"] is None


def test_a_call_by_counts_or_by_strength_is_one_by_either() -> None:
    called = {
        name: [_is_called(result("x", one=call), verdict) for call in (QUIET, UP, STRONGER)]
        for name, verdict in STATISTICS.items()
    }
    assert called == {
        "counts": [False, True, False],
        "strength": [False, False, True],
        "either": [False, True, True],
    }


def test_power_is_the_share_of_known_changes_called_in_their_direction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = {"x": {"one": "up", "two": "down"}}
    monkeypatch.setattr(false_positives, "fine_tunes", lambda: known)
    found = _powers([result("x", one=UP, two=UP, other=STRONGER)])
    assert found["n_known"] == 2
    assert (found["counts"], found["strength"], found["either"]) == (0.5, 0.0, 0.5)
    assert (found["counts_calls"], found["strength_calls"]) == (2, 1)


def test_without_draws_no_side_is_permuted() -> None:
    assert permuted_calls(None, [], "labelled") == ()
