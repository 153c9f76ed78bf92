"""The rule that chooses the effective label of a latent, applied to a list of latents.

Only decisions and labels under the active taxonomy version count. The first of these that exists
is the effective label:

1. the adjudicated decision;
2. the latest decision of any reviewer, apart from skips and undone decisions;
3. the active judge's newest label with an answer;
4. the active judge's newest label without an answer (the call failed, for example).

`v_effective_label_computed` states the same rule in SQL, and tests compare the two.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from labeler.store.outcomes import FAILED
from labeler.store.schema import (
    Explanation,
    JudgeLabel,
    JudgeLabelCategory,
    ReviewEvent,
    ReviewEventCategory,
)
from labeler.store.statements import chunks, newest_explanation_ids
from labeler.store.views.base import ADJUDICATED

HUMAN_OUTCOMES = {"set": "assigned", "none": "none", "uninterpretable": "uninterpretable"}
"""Outcome of a label by the reviewer's action; `accept` has that of the accepted label."""


@dataclass(frozen=True)
class CategoryChoice:
    """One category of an effective label."""

    rank: int
    category_id: int
    confidence: float | None
    """As the judge stated it; None for a reviewer's category."""


@dataclass(frozen=True)
class Choice:
    """The content of an effective label. A stored label with equal content is not written again."""

    outcome: str
    source: str | None = None
    taxonomy_version_id: int | None = None
    judge_label_id: int | None = None
    review_event_id: int | None = None
    explanation_id: int | None = None
    categories: tuple[CategoryChoice, ...] = ()


@dataclass(frozen=True)
class Setting:
    """The active taxonomy version and judge."""

    taxonomy_version_id: int
    judge_id: int
    is_import: bool
    """Whether the labels were imported."""


@dataclass(frozen=True)
class _Label:
    id: int
    outcome: str
    explanation_id: int | None


@dataclass(frozen=True)
class _Decision:
    id: int
    action: str
    based_on_id: int | None


@dataclass(frozen=True)
class _Inputs:
    """What the rule needs to know about some latents."""

    decisions: dict[int, _Decision]
    """The active decision, by latent id."""
    labels: dict[int, _Label]
    """The newest label with an answer, by latent id."""
    failed: dict[int, _Label]
    """The newest label without an answer, by latent id."""
    explanations: dict[int, int]
    """Id of the newest explanation, by latent id."""
    based_on: dict[int, _Label]
    """Labels on which decisions are based, by label id."""
    event_categories: dict[int, tuple[CategoryChoice, ...]]
    """Categories of decisions, by event id."""
    label_categories: dict[int, tuple[CategoryChoice, ...]]
    """Categories of labels, by label id."""


def choose(
    session: Session, setting: Setting | None, latent_ids: Collection[int]
) -> dict[int, Choice]:
    """The effective label of each latent, by latent id; all are unlabelled without a setting."""
    if setting is None:
        return {latent_id: Choice("unlabelled") for latent_id in latent_ids}
    choices: dict[int, Choice] = {}
    for part in chunks(latent_ids):
        inputs = _load_inputs(session, setting, part)
        choices |= {latent_id: _choose_one(setting, inputs, latent_id) for latent_id in part}
    return choices


def standing_events(events: Iterable[ReviewEvent]) -> dict[str, ReviewEvent]:
    """The current decision of each reviewer on one latent, by reviewer.

    `events` are those of the latent, ordered by revision. Skips are ignored. If a reviewer's last
    event is an undo, the decision that it restores is current, if there is one.
    """
    by_id: dict[int, ReviewEvent] = {}
    last_events: dict[str, ReviewEvent] = {}
    for event in events:
        by_id[event.id] = event
        if event.action != "skip":
            last_events[event.reviewer] = event
    standing: dict[str, ReviewEvent] = {}
    for reviewer, last in last_events.items():
        is_undo = last.action == "undo"
        decision = by_id.get(last.restores_event_id or 0) if is_undo else last
        if decision is not None:
            standing[reviewer] = decision
    return standing


def _active_event(events: Iterable[ReviewEvent]) -> ReviewEvent | None:
    """The adjudicated decision on a latent, else the latest current one of any reviewer."""
    standing = standing_events(events)
    if ADJUDICATED in standing:
        return standing[ADJUDICATED]
    return max(standing.values(), key=lambda event: event.id, default=None)


def _choose_one(setting: Setting, inputs: _Inputs, latent_id: int) -> Choice:
    decision = inputs.decisions.get(latent_id)
    label = inputs.labels.get(latent_id)
    of_label = label.explanation_id if label else None
    explanation_id = of_label or inputs.explanations.get(latent_id)
    version = setting.taxonomy_version_id
    if decision is not None:
        base = inputs.based_on.get(decision.based_on_id) if decision.based_on_id else None
        return Choice(
            outcome=base.outcome
            if base and decision.action == "accept"
            else HUMAN_OUTCOMES[decision.action],
            source="human",
            taxonomy_version_id=version,
            review_event_id=decision.id,
            explanation_id=(base.explanation_id if base else None) or explanation_id,
            categories=inputs.event_categories.get(decision.id, ()),
        )
    found = label or inputs.failed.get(latent_id)
    if found is None:
        return Choice("unlabelled", taxonomy_version_id=version, explanation_id=explanation_id)
    return Choice(
        outcome=found.outcome,
        source="import" if setting.is_import else "judge",
        taxonomy_version_id=version,
        judge_label_id=found.id,
        explanation_id=explanation_id,
        categories=inputs.label_categories.get(found.id, ()),
    )


def _load_inputs(session: Session, setting: Setting, latent_ids: Sequence[int]) -> _Inputs:
    decisions = _decisions(session, setting, latent_ids)
    labels, failed = _labels(session, setting, latent_ids)
    based_on_ids = [row.based_on_id for row in decisions.values() if row.based_on_id is not None]
    return _Inputs(
        decisions=decisions,
        labels=labels,
        failed=failed,
        explanations=_explanations(session, setting, latent_ids),
        based_on=_labels_by_id(session, based_on_ids),
        event_categories=_event_categories(session, [row.id for row in decisions.values()]),
        label_categories=_label_categories(session, [row.id for row in labels.values()]),
    )


def _decisions(
    session: Session, setting: Setting, latent_ids: Sequence[int]
) -> dict[int, _Decision]:
    rows = session.execute(
        select(ReviewEvent)
        .where(
            ReviewEvent.latent_id.in_(latent_ids),
            ReviewEvent.taxonomy_version_id == setting.taxonomy_version_id,
        )
        .order_by(ReviewEvent.revision)
    ).scalars()
    streams: dict[int, list[ReviewEvent]] = defaultdict(list)
    for row in rows:
        streams[row.latent_id].append(row)
    active = {latent_id: _active_event(events) for latent_id, events in streams.items()}
    return {
        latent_id: _Decision(event.id, event.action, event.based_on_judge_label_id)
        for latent_id, event in active.items()
        if event is not None
    }


def _labels(
    session: Session, setting: Setting, latent_ids: Sequence[int]
) -> tuple[dict[int, _Label], dict[int, _Label]]:
    """The active judge's newest labels with an answer, and those without, by latent id."""
    rows = session.execute(
        select(JudgeLabel.latent_id, JudgeLabel.id, JudgeLabel.outcome, JudgeLabel.explanation_id)
        .where(
            JudgeLabel.latent_id.in_(latent_ids),
            JudgeLabel.taxonomy_version_id == setting.taxonomy_version_id,
            JudgeLabel.judge_id == setting.judge_id,
            JudgeLabel.is_control.is_(False),
        )
        .order_by(JudgeLabel.id)
    )
    labels: dict[int, _Label] = {}
    failed: dict[int, _Label] = {}
    for row in rows:
        kept = failed if row.outcome in FAILED else labels
        kept[row.latent_id] = _Label(row.id, row.outcome, row.explanation_id)
    return labels, failed


def _labels_by_id(session: Session, ids: Sequence[int]) -> dict[int, _Label]:
    rows = _by_ids(
        session,
        (JudgeLabel.id, JudgeLabel.outcome, JudgeLabel.explanation_id),
        JudgeLabel.id,
        ids,
    )
    return {row.id: _Label(row.id, row.outcome, row.explanation_id) for row in rows}


def _explanations(session: Session, setting: Setting, latent_ids: Sequence[int]) -> dict[int, int]:
    newest = newest_explanation_ids(
        Explanation.latent_id.in_(latent_ids),
        Explanation.judge_id == setting.judge_id,
        Explanation.is_control.is_(False),
    )
    rows = session.execute(
        select(Explanation.latent_id, Explanation.id).where(Explanation.id.in_(newest))
    )
    return dict(rows.all())


def _event_categories(
    session: Session, ids: Sequence[int]
) -> dict[int, tuple[CategoryChoice, ...]]:
    table = ReviewEventCategory
    rows = _by_ids(
        session, (table.review_event_id, table.rank, table.category_id), table.review_event_id, ids
    )
    found: dict[int, list[CategoryChoice]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.rank):
        found[row.review_event_id].append(CategoryChoice(row.rank, row.category_id, None))
    return {key: tuple(values) for key, values in found.items()}


def _label_categories(
    session: Session, ids: Sequence[int]
) -> dict[int, tuple[CategoryChoice, ...]]:
    table = JudgeLabelCategory
    rows = _by_ids(
        session,
        (table.judge_label_id, table.rank, table.category_id, table.confidence),
        table.judge_label_id,
        ids,
    )
    found: dict[int, list[CategoryChoice]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.rank):
        found[row.judge_label_id].append(CategoryChoice(row.rank, row.category_id, row.confidence))
    return {key: tuple(values) for key, values in found.items()}


def _by_ids(session: Session, columns: Sequence[Any], key: Any, ids: Sequence[int]) -> list[Any]:
    rows: list[Any] = []
    for part in chunks(ids):
        rows += session.execute(select(*columns).where(key.in_(part))).all()
    return rows
