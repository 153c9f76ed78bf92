"""Reviewers' decisions: append-only, with optimistic revisions, and the random audit samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from labeler.errors import UsageError, WorkError
from labeler.store.effective import refresh_effective
from labeler.store.latents import freeze_version
from labeler.store.outcomes import FAILED
from labeler.store.schema import (
    AuditDraw,
    AuditMember,
    Comparison,
    Crosscoder,
    JudgeLabel,
    JudgeLabelCategory,
    Latent,
    LatentSetMember,
    ReviewEvent,
    ReviewEventCategory,
)
from labeler.store.schema.base import new_act, utc_now
from labeler.store.statements import chunks
from labeler.store.taxonomies import category_ids


@dataclass(frozen=True)
class Decision:
    """A reviewer's decision on one latent, based on `base_revision` of their stream."""

    latent_id: int
    taxonomy_version_id: int
    reviewer: str
    base_revision: int
    """Newest revision of the reviewer's stream when the page or file was made; 0 = none."""
    action: str
    """accept, set, none, uninterpretable, skip or undo."""
    categories: tuple[str, ...] = ()
    """`set`: slugs, the primary one first."""
    explanation_text: str | None = None
    based_on_judge_label_id: int | None = None
    reason: str | None = None
    note: str | None = None
    was_blind: bool = False
    selection: str = "manual"
    inclusion_prob: float | None = None
    elapsed_ms: int | None = None
    entered_by: str | None = None
    """Who decided, where the stream is a shared one."""


class RevisionConflictError(WorkError):
    """The reviewer's stream has a revision newer than the decision's base."""

    def __init__(self, decision: Decision, current_revision: int) -> None:
        self.decision = decision
        self.current_revision = current_revision
        super().__init__(
            f"latent {decision.latent_id}: {decision.reviewer} is at revision"
            f" {current_revision}, the decision was based on {decision.base_revision}"
        )


def stream_of(
    session: Session, latent_id: int, taxonomy_version_id: int, reviewer: str
) -> list[ReviewEvent]:
    """A reviewer's events on one latent, oldest first."""
    query = (
        select(ReviewEvent)
        .where(
            ReviewEvent.latent_id == latent_id,
            ReviewEvent.taxonomy_version_id == taxonomy_version_id,
            ReviewEvent.reviewer == reviewer,
        )
        .order_by(ReviewEvent.revision)
    )
    return list(session.execute(query).scalars())


def stream_revision(
    session: Session, latent_id: int, taxonomy_version_id: int, reviewer: str
) -> int:
    """The newest revision of a reviewer's stream; 0 for an empty one."""
    query = select(func.max(ReviewEvent.revision)).where(
        ReviewEvent.latent_id == latent_id,
        ReviewEvent.taxonomy_version_id == taxonomy_version_id,
        ReviewEvent.reviewer == reviewer,
    )
    return session.execute(query).scalar_one() or 0


def record_decision(session: Session, decision: Decision) -> ReviewEvent:
    """Append a decision as revision `base_revision` + 1 and refresh the effective labels.

    RevisionConflictError where the stream has a newer revision; UsageError for an invalid
    decision. Nothing is written then.
    """
    (event_id,) = record_decisions(session, [decision])
    return session.get_one(ReviewEvent, event_id)


def record_decisions(
    session: Session, decisions: Sequence[Decision], are_one_act: bool = True
) -> list[int]:
    """Append decisions, one per stream, in one step; returns the ids of their events.

    Those of one act are undone together. Raises like `record_decision` for the first invalid
    decision. Nothing is written then.
    """
    streams = _streams(session, decisions)
    rows = [_event_row(decision, streams[_stream_key(decision)]) for decision in decisions]
    act, now = new_act(), utc_now()
    rows = [row | {"act": act if are_one_act else new_act(), "created_at": now} for row in rows]
    versions = {decision.taxonomy_version_id for decision in decisions}
    known = {version_id: category_ids(session, version_id) for version_id in versions}
    names = [_category_ids(session, each, known[each.taxonomy_version_id]) for each in decisions]
    for version_id in versions:
        freeze_version(session, version_id)
    ids = _insert_events(session, decisions, rows)
    categories = [
        {"review_event_id": event_id, "rank": rank, "category_id": category_id}
        for event_id, chosen in zip(ids, names, strict=True)
        for rank, category_id in enumerate(chosen, start=1)
    ]
    if categories:
        session.execute(insert(ReviewEventCategory), categories)
    refresh_effective(session, latent_ids={decision.latent_id for decision in decisions})
    return ids


StreamKey = tuple[int, int, str]
"""Latent, taxonomy version, reviewer."""


def _stream_key(decision: Decision) -> StreamKey:
    return decision.latent_id, decision.taxonomy_version_id, decision.reviewer


def _streams(session: Session, decisions: Sequence[Decision]) -> dict[StreamKey, list[ReviewEvent]]:
    """The events of each decision's stream, oldest first."""
    streams: dict[StreamKey, list[ReviewEvent]] = {}
    for decision in decisions:
        if not decision.reviewer.strip():
            raise UsageError("reviewer: missing; give a name")
        streams[_stream_key(decision)] = []
    if len(streams) < len(decisions):
        raise UsageError("decisions: one latent is decided twice by one reviewer; keep one")
    reviewers = {decision.reviewer for decision in decisions}
    for part in chunks({decision.latent_id for decision in decisions}):
        query = (
            select(ReviewEvent)
            .where(ReviewEvent.latent_id.in_(part), ReviewEvent.reviewer.in_(reviewers))
            .order_by(ReviewEvent.revision)
        )
        for event in session.execute(query).scalars():
            key = (event.latent_id, event.taxonomy_version_id, event.reviewer)
            if key in streams:
                streams[key].append(event)
    return streams


def _event_row(decision: Decision, stream: Sequence[ReviewEvent]) -> dict[str, Any]:
    """Columns of a decision's event; RevisionConflictError for a stale base."""
    newest = stream[-1].revision if stream else 0
    if newest != decision.base_revision:
        raise RevisionConflictError(decision, newest)
    values = asdict(decision)
    del values["base_revision"], values["categories"]
    return values | {
        "revision": newest + 1,
        "restores_event_id": _restored(stream) if decision.action == "undo" else None,
    }


def _insert_events(
    session: Session, decisions: Sequence[Decision], rows: list[dict[str, Any]]
) -> list[int]:
    """Insert the events; RevisionConflictError where another writer was first."""
    if not rows:
        return []
    statement = insert(ReviewEvent).returning(ReviewEvent.id, sort_by_parameter_order=True)
    try:
        with session.begin_nested():
            return list(session.execute(statement, rows).scalars())
    except IntegrityError as error:
        for decision in decisions:
            now = stream_revision(session, *_stream_key(decision))
            if now != decision.base_revision:
                raise RevisionConflictError(decision, now) from error
        raise


def _category_ids(session: Session, decision: Decision, known: Mapping[str, int]) -> list[int]:
    if (decision.action == "set") != bool(decision.categories):
        raise UsageError(
            f"action {decision.action!r} with {len(decision.categories)} categories: only and"
            " always 'set' names categories"
        )
    if decision.action == "accept":
        return _accepted(session, decision)
    for slug in decision.categories:
        if slug not in known:
            raise UsageError(f"category {slug!r}: not in the active taxonomy version")
    if len(set(decision.categories)) < len(decision.categories):
        raise UsageError(f"categories {', '.join(decision.categories)}: one is named twice")
    return [known[slug] for slug in decision.categories]


def _accepted(session: Session, decision: Decision) -> list[int]:
    """Category ids of the accepted label, by rank."""
    label = (
        session.get(JudgeLabel, decision.based_on_judge_label_id)
        if decision.based_on_judge_label_id is not None
        else None
    )
    if (
        label is None
        or label.outcome in FAILED
        or label.is_control
        or (label.latent_id, label.taxonomy_version_id)
        != (decision.latent_id, decision.taxonomy_version_id)
    ):
        raise UsageError(
            "action 'accept': based_on_judge_label_id must name a usable label of this latent"
            " under this taxonomy version"
        )
    query = (
        select(JudgeLabelCategory.category_id)
        .where(JudgeLabelCategory.judge_label_id == label.id)
        .order_by(JudgeLabelCategory.rank)
    )
    return list(session.execute(query).scalars())


def _restored(stream: Sequence[ReviewEvent]) -> int | None:
    """The decision that an undo of the current one restores."""
    acts = [event for event in stream if event.action != "skip"]
    standing: list[int | None] = [None]
    for event in acts:
        standing.append(event.restores_event_id if event.action == "undo" else event.id)
    now = standing[-1]
    if now is None:
        raise UsageError("action 'undo': this reviewer has no decision on the latent to undo")
    position = next(index for index, event in enumerate(acts) if event.id == now)
    return standing[position]


@dataclass(frozen=True)
class AuditPlace:
    """A latent's position in the active draw."""

    side: str
    position: int
    inclusion_prob: float


def draw_audit(
    session: Session, comparison_id: int, side: str, size: int, seed: int, drawn_by: str
) -> AuditDraw:
    """Draw `size` latents of a side, or all where it has fewer, and make the draw active.

    UsageError for a size below 1, an unknown side, or a side without latents.
    """
    import numpy as np

    if size < 1:
        raise UsageError(f"audit size: {size} is below 1")
    if not 0 <= seed < 2**31:
        raise UsageError(f"audit seed: {seed} does not lie between 0 and {2**31 - 1}")
    population = _population(session, comparison_id, side)
    if not population:
        raise UsageError(f"audit: the {side} side has no latents to draw from")
    order = np.random.default_rng(seed).permutation(len(population))
    drawn = [population[index] for index in order[:size]]
    draw = AuditDraw(
        comparison_id=comparison_id,
        side=side,
        seed=seed,
        n_drawn=len(drawn),
        n_population=len(population),
        drawn_by=drawn_by,
    )
    session.add(draw)
    session.flush()
    session.execute(
        insert(AuditMember),
        [
            {"audit_draw_id": draw.id, "latent_id": latent_id, "position": position}
            for position, latent_id in enumerate(drawn, start=1)
        ],
    )
    return draw


def active_draws(session: Session, comparison_id: int) -> dict[str, AuditDraw]:
    """The newest draw of each side that has one."""
    newest = (
        select(func.max(AuditDraw.id))
        .where(AuditDraw.comparison_id == comparison_id)
        .group_by(AuditDraw.side)
    )
    draws = session.execute(select(AuditDraw).where(AuditDraw.id.in_(newest))).scalars()
    return {draw.side: draw for draw in draws}


def audit_places(session: Session, comparison_id: int) -> Mapping[int, AuditPlace]:
    """Every latent of the active draws, by its id."""
    places: dict[int, AuditPlace] = {}
    for draw in active_draws(session, comparison_id).values():
        members = session.execute(
            select(AuditMember.latent_id, AuditMember.position).where(
                AuditMember.audit_draw_id == draw.id
            )
        )
        probability = draw.n_drawn / draw.n_population
        for latent_id, position in members:
            places[latent_id] = AuditPlace(draw.side, position, probability)
    return places


def _population(session: Session, comparison_id: int, side: str) -> list[int]:
    """Latent ids of a side, sorted."""
    if side not in ("target", "reference"):
        raise UsageError(f"audit side: {side!r} is neither target nor reference")
    comparison = session.get_one(Comparison, comparison_id)
    latent_set = comparison.target_set_id if side == "target" else comparison.reference_set_id
    query = (
        select(LatentSetMember.latent_id)
        .join(Latent, Latent.id == LatentSetMember.latent_id)
        .join(Crosscoder, Crosscoder.id == Latent.crosscoder_id)
        .where(LatentSetMember.latent_set_id == latent_set)
        .order_by(Crosscoder.id, Latent.latent_index)
    )
    return list(session.execute(query).scalars())
