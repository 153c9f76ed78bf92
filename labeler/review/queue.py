"""A page of the queue: the latents that pass the filters, and counts next to every filter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from labeler.errors import UsageError
from labeler.review.filters import CHOICES, Filters
from labeler.review.queued_latents import QueuedLatent
from labeler.review.table import Mask, QueueTable, Rows
from labeler.store.outcomes import BY_NAME, WITHOUT_CATEGORY

PAGE_SIZE = 50
FACETS = ("side", "status", "mine", "category", "source", "confidence", "disagreement", "audit")
TITLES = {
    "side": "Side", "status": "Review", "mine": "Mine", "category": "Category",
    "source": "Label by", "confidence": "Confidence", "disagreement": "Judges",
    "audit": "Random audit",
}  # fmt: skip


@dataclass(frozen=True)
class Option:
    """A value of a filter, how many latents it would keep, and the URL that takes or drops it."""

    value: str
    label: str
    count: int
    selected: bool
    query: str
    level: int = 1


@dataclass(frozen=True)
class Facet:
    """One filter with its values."""

    name: str
    title: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class QueueItem:
    """One row of the list; `hidden` = to be decided blind by this reviewer."""

    latent: QueuedLatent
    hidden: bool


@dataclass(frozen=True)
class QueuePage:
    """What the list shows."""

    items: tuple[QueueItem, ...]
    total: int
    n_hidden: int
    """Latents left out because being listed would tell a blind reviewer the label."""
    facets: tuple[Facet, ...]
    after: str | None
    """Cursor of the next page."""
    before_first: int
    """How many latents come before this page."""


def matching(table: QueueTable, filters: Filters, reviewer: str) -> Rows:
    """The rows that pass the filters, in the order asked for."""
    order = table.order(filters.order)
    keep = _all_of(table.masks(filters, reviewer), len(order))
    return order[keep[order]]


def queue_page(
    table: QueueTable, filters: Filters, reviewer: str, after: str | None = None
) -> QueuePage:
    """The page that follows a cursor."""
    masks = table.masks(filters, reviewer)
    order = table.order(filters.order)
    rows = order[_all_of(masks, len(order))[order]]
    start = int(np.searchsorted(_behind(table, filters, rows, after), True)) if after else 0
    shown = rows[start : start + PAGE_SIZE]
    hidden = table.hidden(reviewer)
    more = start + PAGE_SIZE < len(rows)
    return QueuePage(
        items=tuple(QueueItem(table.latents[row], bool(hidden[row])) for row in shown),
        total=len(rows),
        n_hidden=_left_out(masks),
        facets=tuple(_facet(table, filters, reviewer, masks, name) for name in FACETS),
        after=cursor(table, filters, int(shown[-1])) if more else None,
        before_first=start,
    )


@dataclass(frozen=True)
class Surroundings:
    """Where a latent stands in the queue, itself in it or not."""

    n: int
    """Latents of the queue."""
    previous_id: int | None
    next_id: int | None


def surroundings(
    table: QueueTable, filters: Filters, reviewer: str, latent_id: int
) -> Surroundings:
    """The latents before and after another in the queue; of an unknown one, the first follows."""
    order = table.order(filters.order)
    keep = _all_of(table.masks(filters, reviewer), len(order))
    n = int(np.count_nonzero(keep))
    own = table.rows_of.get(latent_id, [])
    keep[own] = False
    kept = np.flatnonzero(keep[order])
    position = int(np.argmax(order == own[0])) if own else 0
    after = int(np.searchsorted(kept, position))
    previous_id, next_id = (
        int(table.latent_id[order[kept[index]]]) if 0 <= index < len(kept) else None
        for index in (after - 1, after)
    )
    return Surroundings(n, previous_id, next_id)


def cursor(table: QueueTable, filters: Filters, row: int) -> str:
    """The key of a row in the order of the filters, as text: it holds when the row is gone."""
    numbers = [repr(key[row].item()) for key in reversed(table.sort_keys(filters.order))]
    return "~".join(numbers)


def _behind(table: QueueTable, filters: Filters, rows: Rows, after: str | None) -> Mask:
    """(len(rows),) False for the rows up to and with the cursor, True for those behind it."""
    keys = list(reversed(table.sort_keys(filters.order)))
    values = (after or "").split("~")
    if len(values) != len(keys):
        raise UsageError("after: is no position in this order; start at page 1")
    behind = np.zeros(len(rows), np.bool_)
    equal = np.ones(len(rows), np.bool_)
    for key, value in zip(keys, values, strict=True):
        try:
            edge = float(value) if key.dtype.kind == "f" else int(value)
        except ValueError:
            raise UsageError("after: is no position in this order; start at page 1") from None
        column = key[rows]
        behind |= equal & (column > edge)
        equal &= column == edge
    return behind


def _all_of(masks: Mapping[str, Mask], n: int) -> Mask:
    keep = np.ones(n, np.bool_)
    for mask in masks.values():
        keep &= mask
    return keep


def _left_out(masks: Mapping[str, Mask]) -> int:
    if "blind" not in masks:
        return 0
    return int((~masks["blind"]).sum())


def _facet(
    table: QueueTable, filters: Filters, reviewer: str, masks: Mapping[str, Mask], name: str
) -> Facet:
    others = {key: mask for key, mask in masks.items() if key != name}
    if name in ("category", "source", "confidence", "disagreement"):
        # A count would tell a blind reviewer the label as well as a list would.
        others["blind"] = ~table.hidden(reviewer)
    counts = table.count_by(name, _all_of(others, len(table.latents)), reviewer)
    chosen = getattr(filters, name)
    values = _category_values(table) if name == "category" else CHOICES[name]
    options = []
    for value, label in values.items():
        selected = value == chosen
        if not counts.get(value) and not selected:
            continue
        leaf = table.categories.get(value)
        options.append(
            Option(
                value=value,
                label=label,
                count=counts.get(value, 0),
                selected=selected,
                query=filters.query(**{name: "" if selected else value}),
                level=2 if leaf is not None and leaf.parent else 1,
            )
        )
    return Facet(name, TITLES[name], tuple(options))


def _category_values(table: QueueTable) -> dict[str, str]:
    """What needs a look first, none fits and the like; then each group before its categories."""
    outcomes = {name: BY_NAME[name].short for name in WITHOUT_CATEGORY}
    return outcomes | {slug: leaf.name for slug, leaf in table.in_tree_order()}
