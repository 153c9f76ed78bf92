"""One action on all latents that pass the filters: shown first, then done whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from labeler.errors import UsageError, WorkError
from labeler.review.filters import Filters
from labeler.review.queue import matching
from labeler.review.queued_latents import QueuedLatent, Setting
from labeler.review.table import QueueTable
from labeler.store.outcomes import ANSWERS
from labeler.store.reviews import Decision, record_decisions
from labeler.store.schema import JudgeLabel, ReviewEvent
from labeler.store.statements import chunks

ACTIONS = {
    "accept": "Accept the judge's label",
    "set": "Set a category",
    "none": "None of the categories fits",
    "uninterpretable": "Uninterpretable",
}


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
