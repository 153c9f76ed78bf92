"""What the mean strength shifts of the categories say, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from labeler.report.model import CategoryRow, ChangeTable
from labeler.text import listed, one_line
from taxonomy.counts import ALPHA

_MOST_NAMED = 5
_BESIDE_SCRAMBLES = (
    "What a call by strength is worth: on ten small fine-tunes whose answers were measured, 5 "
    "categories were called. The answers had changed that way in 4, and in 1 they could not show "
    "it. But only 4 of the 18 changes of behaviour were called. Of 64 scrambled fine-tunes, which "
    "mean nothing, 1 was called by strength and 6 by counts. So a call is worth a look at the "
    "answers, and no call says little."
)
_AGAINST_THE_REST = (
    "What a call by strength is worth without scrambled fine-tunes: on ten small fine-tunes whose "
    "answers were measured, 16 categories were called. The answers had changed that way in 7, the "
    "other way in 1, not at all in 3, and in 5 they could not show it. A change without meaning is "
    "called as well."
)
"""Both measured by benchmarks/organisms.py and false_positives.py, one training seed."""


def worth(table: ChangeTable) -> str:
    """How often calls by strength went along with the answers, where that was measured."""
    return _BESIDE_SCRAMBLES if _is_beside_scrambles(table) else _AGAINST_THE_REST


def shift_sentence(table: ChangeTable) -> str | None:
    """Which categories the target uses more or less strongly than all others; None without shifts.

    Groups are left out: their categories say more.
    """
    leaves = _leaves(table)
    if not leaves:
        return None
    tested = _tested(leaves)
    claim = shift_claim(table)
    if claim is None:
        return (
            f"Over all labelled latents, {one_line(table.target)} is not shown to use any category "
            f"more or less strongly {_than(table)} ({tested})."
        )
    return f"Over all labelled latents, {claim} ({tested})."


def shift_test(table: ChangeTable) -> str:
    """What the claim rests on."""
    return f"Strength: over all labelled latents ({_tested(_leaves(table))})."


def _tested(leaves: Sequence[CategoryRow]) -> str:
    return f"{_measure(leaves)}, {len(leaves)} categories, q < {ALPHA:g}"


def _measure(rows: Sequence[CategoryRow]) -> str:
    """What is compared with what."""
    n_scrambled = max((row.n_scrambled or 0 for row in rows), default=0)
    if not n_scrambled:
        return "mean strength shift against the rest"
    return f"strength shift beside {n_scrambled} scrambled fine-tunes"


def _is_beside_scrambles(table: ChangeTable) -> bool:
    return any(row.n_scrambled for row in _leaves(table))


def _than(table: ChangeTable) -> str:
    return "than a scrambled fine-tune would" if _is_beside_scrambles(table) else "than the rest"


def shift_claim(table: ChangeTable) -> str | None:
    """The same without the test; None where no category is shown to shift."""
    called = [row for row in _leaves(table) if (row.called_shift_q or 0.0) < ALPHA]
    if not called:
        return None
    up = [row for row in called if (row.called_shift or 0.0) > 0]
    down = [row for row in called if (row.called_shift or 0.0) < 0]
    said = [f"{_named(up)} more strongly {_than(table)}"] if up else []
    said += [f"{_named(down)} less strongly{'' if up else f' {_than(table)}'}"] if down else []
    return f"{one_line(table.target)} uses {', and '.join(said)}"


def _leaves(table: ChangeTable) -> list[CategoryRow]:
    return [row for row in table.leaves if row.called_shift_q is not None]


def _named(rows: Sequence[CategoryRow]) -> str:
    ordered = sorted(rows, key=lambda row: (row.called_shift_q or 0.0, row.category))
    names = [
        f"{one_line(row.name)} ({row.shown_shift:+.3f}{alike_words(row, row.n_shifts_alike)})"
        for row in ordered
    ]
    return listed(names, _MOST_NAMED)


def alike_words(row: CategoryRow, n_alike: int | None) -> str:
    """In how many training seeds a change has the sign of that over all; empty for one seed."""
    if row.over_seeds is None or n_alike is None:
        return ""
    return f", the same sign in {n_alike} of {row.over_seeds} seeds"
