"""The latents that pass the filters, page by page, with counts, and one action on all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from labeler.errors import UsageError, WorkError
from labeler.review.queue_table import CHOICES, Filters, Mask, QueueTable, Rows
from labeler.review.queued_latents import QueuedLatent, Setting
from labeler.store.outcomes import ANSWERS, BY_NAME, WITHOUT_CATEGORY
from labeler.store.reviews import Decision, record_decisions
from labeler.store.schema import JudgeLabel, ReviewEvent
from labeler.store.statements import chunks

PAGE_SIZE = 50
FACETS = (
    "side", "status", "mine", "category", "source", "confidence", "disagreement", "audit", "stable",
)  # fmt: skip
TITLES = {
    "side": "Side", "status": "Review", "mine": "Mine", "category": "Category",
    "source": "Label by", "confidence": "Confidence", "disagreement": "Judges",
    "audit": "Random audit", "stable": "In other seeds",
}  # fmt: skip
ACTIONS = {
    "accept": "Accept the judge's label",
    "set": "Set a category",
    "none": "None of the categories fits",
    "uninterpretable": "Uninterpretable",
}


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


@dataclass(frozen=True)
class BulkAction:
    """What is to be done to each latent."""

    action: str
    category: str = ""
    note: str = ""


@dataclass(frozen=True)
class BulkPlan:
    """The latents an action changes, and those that it leaves alone."""

    action: BulkAction
    changed: tuple[QueuedLatent, ...]
    n_same: int
    """Reviewed by this reviewer with the same answer already."""
    n_blind: int
    """To be decided blind, one by one."""
    n_unlabelled: int
    """Without a label that could be accepted."""
    digest: str
    """Of the latents and of what stands on them: a change since asks for another look."""


class BulkChangedError(WorkError):
    """The latents are no longer those that were shown."""

    def __init__(self, plan: BulkPlan) -> None:
        self.plan = plan
        super().__init__("bulk: the latents have changed since they were shown; look again")


def read_action(action: str, category: str, note: str, table: QueueTable) -> BulkAction:
    """Check an action; UsageError names what is wrong."""
    if action not in ACTIONS:
        raise UsageError(f"bulk action: {action!r} is not one of {', '.join(ACTIONS)}")
    if action == "set" and not category:
        raise UsageError("Choose the category to set.")
    if action == "set" and category not in table.categories:
        raise UsageError(f"bulk category: {category!r} is no category of the active version")
    return BulkAction(action, category if action == "set" else "", note.strip())


def plan_bulk(
    session: Session, table: QueueTable, filters: Filters, reviewer: str, action: BulkAction
) -> BulkPlan:
    """Which latents of the filters the action would change."""
    rows = matching(table, filters, reviewer)
    seen: set[int] = set()
    changed: list[QueuedLatent] = []
    n_same = n_blind = n_unlabelled = 0
    for latent in (table.latents[row] for row in rows):
        if latent.latent_id in seen:
            continue
        seen.add(latent.latent_id)
        if latent.hidden_from(reviewer):
            n_blind += 1
        elif action.action == "accept" and latent.judge_answer is None:
            n_unlabelled += 1
        elif latent.voices.get(reviewer) == _answer(action, latent):
            n_same += 1
        else:
            changed.append(latent)
    ids = [latent.latent_id for latent in changed]
    revisions = _revisions(session, table.setting, ids, reviewer)
    words = [f"{action}", *(f"{p.latent_id}:{p.answer}:{revisions[p.latent_id]}" for p in changed)]
    digest = hashlib.sha256("\n".join(words).encode()).hexdigest()
    return BulkPlan(action, tuple(changed), n_same, n_blind, n_unlabelled, digest)


def apply_bulk(
    session: Session, table: QueueTable, plan: BulkPlan, reviewer: str, digest: str
) -> int:
    """Record the planned decisions, all of them or none; returns how many.

    BulkChangedError where the plan differs from the one that was shown.
    """
    if plan.digest != digest:
        raise BulkChangedError(plan)
    setting = table.setting
    ids = [latent.latent_id for latent in plan.changed]
    revisions = _revisions(session, setting, ids, reviewer)
    labels = _labels(session, setting, ids)
    decisions = [
        Decision(
            latent_id=latent.latent_id,
            taxonomy_version_id=setting.taxonomy_version_id,
            reviewer=reviewer,
            base_revision=revisions[latent.latent_id],
            action=plan.action.action,
            categories=(plan.action.category,) if plan.action.category else (),
            based_on_judge_label_id=labels.get(latent.latent_id),
            note=plan.action.note or None,
            selection="random" if latent.audit else "manual",
            inclusion_prob=latent.audit.inclusion_prob if latent.audit else None,
        )
        for latent in plan.changed
    ]
    return len(record_decisions(session, decisions))


def _answer(action: BulkAction, latent: QueuedLatent) -> str | None:
    if action.action == "accept":
        return latent.judge_answer
    return action.category or action.action


def _revisions(
    session: Session, setting: Setting, latent_ids: Sequence[int], reviewer: str
) -> dict[int, int]:
    found = dict.fromkeys(latent_ids, 0)
    for part in chunks(latent_ids):
        rows = session.execute(
            select(ReviewEvent.latent_id, ReviewEvent.revision).where(
                ReviewEvent.latent_id.in_(part),
                ReviewEvent.taxonomy_version_id == setting.taxonomy_version_id,
                ReviewEvent.reviewer == reviewer,
            )
        )
        for latent_id, revision in rows:
            found[latent_id] = max(found[latent_id], revision)
    return found


def _labels(session: Session, setting: Setting, latent_ids: Sequence[int]) -> dict[int, int]:
    """The newest usable label of the active judge, by latent."""
    found: dict[int, int] = {}
    for part in chunks(latent_ids):
        rows = session.execute(
            select(JudgeLabel.latent_id, JudgeLabel.id)
            .where(
                JudgeLabel.latent_id.in_(part),
                JudgeLabel.taxonomy_version_id == setting.taxonomy_version_id,
                JudgeLabel.judge_id == setting.judge_id,
                JudgeLabel.outcome.in_(ANSWERS),
                JudgeLabel.is_control.is_(False),
            )
            .order_by(JudgeLabel.id)
        )
        found |= {row.latent_id: row.id for row in rows}
    return found
