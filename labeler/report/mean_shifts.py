"""What the mean strength shifts of the categories say, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from labeler.report.model import CategoryRow, ChangeTable
from labeler.text import listed, one_line
from taxonomy.counts import ALPHA

_MOST_NAMED = 5


def shift_sentence(table: ChangeTable) -> str | None:
    """Which categories the target uses more or less strongly than all others; None without shifts.

    Groups are left out: their categories say more.
    """
    rows = [row for row in table.rows if row.relative_shift_q is not None]
    if not rows:
        return None
    leaves = [row for row in rows if row.level == max(each.level for each in rows)]
    called = [row for row in leaves if (row.relative_shift_q or 0.0) < ALPHA]
    model = one_line(table.target)
    tested = f"mean strength shift, {len(leaves)} categories, q < {ALPHA:g}"
    if not called:
        return (
            f"Over all labelled latents, {model} is not shown to use any category more or less "
            f"strongly than the rest ({tested})."
        )
    up = [row for row in called if (row.relative_shift or 0.0) > 0]
    down = [row for row in called if (row.relative_shift or 0.0) < 0]
    said = [f"{_named(up)} more strongly than the rest"] if up else []
    said += [f"{_named(down)} less strongly{'' if up else ' than the rest'}"] if down else []
    return f"Over all labelled latents, {model} uses {', and '.join(said)} ({tested})."


def _named(rows: Sequence[CategoryRow]) -> str:
    ordered = sorted(rows, key=lambda row: (row.relative_shift_q or 0.0, row.category))
    names = [f"{one_line(row.name)} ({row.relative_shift:+.3f})" for row in ordered]
    n_more = len(names) - _MOST_NAMED
    return listed([*names[:_MOST_NAMED], f"{n_more} more"] if n_more > 0 else names)
