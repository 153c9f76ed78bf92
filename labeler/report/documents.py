"""How much text a change needs, in sentences: the advice of a report's rows."""

from __future__ import annotations

from collections.abc import Sequence

from labeler.report.model import CategoryRow, ChangeTable
from labeler.text import one_line, plural


def advised_rows(table: ChangeTable) -> tuple[CategoryRow, ...]:
    """The categories with latents for which it is known what so many documents show."""
    return tuple(row for row in table.filled if row.n_documents is not None and not row.is_empty)


def document_sentence(table: ChangeTable) -> str | None:
    """What this much text shows, and how much the nearest open change needs; None without draws."""
    rows = advised_rows(table)
    if not rows:
        return None
    said = f"With {plural(_documents(rows), 'document')}, {_detectable(rows)}."
    nearest = min(
        (row for row in rows if row.documents_needed is not None and not row.is_significant),
        key=lambda row: (row.documents_needed or 0, row.category),
        default=None,
    )
    if nearest is None:
        if all(row.is_significant for row in rows):
            return said
        return (
            f"{said} No amount of text is advised: the other changes are no larger than chance "
            "makes them, or their categories have too few latents."
        )
    return (
        f"{said} A change as large as the one seen in {one_line(nearest.name)} "
        f"({points_text(nearest.difference_points)}) {_need(nearest)}."
    )


def _documents(rows: Sequence[CategoryRow]) -> int:
    return max(row.n_documents or 0 for row in rows)


def _detectable(rows: Sequence[CategoryRow]) -> str:
    known = [
        row.detectable_points
        for row in rows
        if row.detectable_points is not None and row.verdict != "too few to say"
    ]
    if not known:
        return "no change of any category would be distinguishable"
    low, high = round(min(known)), round(max(known))
    size = f"{low}" if low == high else f"{low} to {high}"
    grows = "" if low == high else ", more in larger categories"
    return f"the smallest change that would be distinguishable is {size} percentage points{grows}"


def _need(row: CategoryRow) -> str:
    needed, n_documents = row.documents_needed or 0, row.n_documents or 0
    if needed <= n_documents:
        return "is usually found in this many, and was not here"
    return f"would need about {documents_text(needed)} documents"


def points_text(points: float | None) -> str:
    """A difference of shares in percentage points; empty for None."""
    return "" if points is None else f"{points:+.0f} points"


def documents_text(needed: int | None) -> str:
    """Documents to two digits, more would claim too much; `none advised` for None."""
    if needed is None:
        return "none advised"
    unit = 10 ** max(0, len(str(needed)) - 2)
    return f"{-(-needed // unit) * unit:,}"
