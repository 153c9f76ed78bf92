"""From a submitted form to a decision, and from a decision back to what stood before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs

from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.requests import ClientDisconnect, Request

from labeler.errors import UsageError
from labeler.review.access import LARGEST_BODY
from labeler.review.queue_table import Filters
from labeler.review.queued_latents import QueuedLatent, Setting
from labeler.store.effective_rule import standing_events
from labeler.store.reviews import Decision, record_decision, record_decisions, stream_of
from labeler.store.schema import Explanation, JudgeLabel, ReviewEvent
from labeler.store.statements import chunks
from labeler.store.views.base import ADJUDICATED

MOST_FIELDS = 200
FORM_TYPE = "application/x-www-form-urlencoded"


LARGEST_NUMBER = 2**31 - 1
"""What a key of the database can be."""


def whole_number(text: str | None) -> int | None:
    """The number in a URL, header or field; None for anything but a few ASCII digits."""
    if not text or len(text) > 10 or not (text.isascii() and text.isdigit()):
        return None
    number = int(text)
    return number if number <= LARGEST_NUMBER else None


@dataclass(frozen=True)
class Form:
    """The fields of a form."""

    fields: Mapping[str, list[str]]

    def one(self, name: str) -> str:
        """A field's value, empty where it is missing."""
        return self.fields.get(name, [""])[-1]

    def all(self, name: str) -> list[str]:
        """Every value of a field, in the order of the page."""
        return self.fields.get(name, [])

    def number(self, name: str) -> int | None:
        """A whole number; None where the field is empty, UsageError for anything else."""
        value = self.one(name).strip()
        if not value:
            return None
        number = whole_number(value)
        if number is None:
            raise UsageError(f"{name}: {value[:40]!r} is no whole number up to {LARGEST_NUMBER}")
        return number


async def read_form(request: Request) -> Form:
    """The form of a request; UsageError for another kind of body."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != FORM_TYPE:
        raise UsageError(f"form: the body is to be {FORM_TYPE}")
    try:
        body = await request.body()
    except ClientDisconnect:
        raise UsageError(
            f"form: ended early, or is longer than {LARGEST_BODY} bytes; nothing was recorded"
        ) from None
    try:
        fields = parse_qs(
            body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MOST_FIELDS
        )
    except ValueError:
        raise UsageError(f"form: more than {MOST_FIELDS} fields") from None
    return Form(fields)


ACTIONS = ("accept", "set", "none", "uninterpretable", "skip")
REASONS = {
    "judge-wrong": "the judge misread the evidence",
    "too-narrow": "explanation too narrow",
    "too-broad": "explanation too broad",
    "several-concepts": "several concepts at once",
    "unclear-category": "the categories overlap or are unclear",
    "weak-evidence": "too little evidence",
    "other": "other",
}
LONGEST_TEXT = 4_000
LONGEST_ELAPSED_MS = 24 * 3600 * 1000
RECENT_EVENTS = 50


@dataclass(frozen=True)
class Submission:
    """What a reviewer sent, kept whole so that a conflict loses nothing."""

    action: str
    base_revision: int
    stream: str
    categories: tuple[str, ...]
    explanation: str
    explanation_was: str
    """The judge's words that the field started with."""
    label_id: int | None
    reason: str
    note: str
    label_was_shown: bool
    elapsed_ms: int | None


def read_submission(form: Form, reviewer: str) -> Submission:
    """The submitted form; UsageError for a field that says nothing valid."""
    action = form.one("action")
    if action not in ACTIONS:
        raise UsageError(f"action: {action!r} is not one of {', '.join(ACTIONS)}")
    reason = form.one("reason")
    if reason and reason not in REASONS:
        raise UsageError(f"reason: {reason!r} is not known")
    elapsed = form.number("elapsed_ms")
    return Submission(
        action=action,
        base_revision=form.number("base_revision") or 0,
        stream=ADJUDICATED if form.one("adjudicate") == "1" else reviewer,
        categories=tuple(slug for slug in form.all("category") if slug),
        explanation=form.one("explanation")[:LONGEST_TEXT].strip(),
        explanation_was=form.one("explanation_was").strip(),
        label_id=form.number("label_id"),
        reason=reason,
        note=form.one("note")[:LONGEST_TEXT].strip(),
        label_was_shown=form.one("shown") == "1",
        elapsed_ms=None if elapsed is None else min(elapsed, LONGEST_ELAPSED_MS),
    )


def decide(
    session: Session,
    setting: Setting,
    latent: QueuedLatent,
    filters: Filters,
    reviewer: str,
    sent: Submission,
) -> ReviewEvent:
    """Record a submission; RevisionConflictError where the stream has moved on.

    UsageError for a blind reviewer who accepts a label that was not to be seen.
    """
    is_blind = latent.hidden_from(reviewer) and not sent.label_was_shown
    if is_blind and sent.action == "accept":
        raise UsageError("accept: this latent is to be decided blind; choose a category")
    if is_blind and sent.stream == ADJUDICATED:
        raise UsageError("adjudicate: decide this latent blind in your own stream first")
    label_id = None if is_blind else sent.label_id
    has_words = sent.action != "skip"
    return record_decision(
        session,
        Decision(
            latent_id=latent.latent_id,
            taxonomy_version_id=setting.taxonomy_version_id,
            reviewer=sent.stream,
            entered_by=reviewer if sent.stream != reviewer else None,
            base_revision=sent.base_revision,
            action=sent.action,
            categories=sent.categories if sent.action == "set" else (),
            explanation_text=_own_words(session, sent, label_id) if has_words else None,
            based_on_judge_label_id=label_id,
            reason=sent.reason or None,
            note=sent.note or None,
            was_blind=is_blind,
            selection=_selection(latent, filters),
            inclusion_prob=latent.audit.inclusion_prob if latent.audit else None,
            elapsed_ms=sent.elapsed_ms,
        ),
    )


def _selection(latent: QueuedLatent, filters: Filters) -> str:
    if latent.audit is not None:
        return "random"
    return "uncertain" if filters.order in ("uncertain", "disagreement") else "manual"


def _own_words(session: Session, sent: Submission, label_id: int | None) -> str | None:
    """The reviewer's explanation; None where it is the judge's, word for word."""
    if not sent.explanation or _normal(sent.explanation) == _normal(sent.explanation_was):
        return None
    if label_id is not None:
        said = session.execute(
            select(Explanation.text)
            .join(JudgeLabel, JudgeLabel.explanation_id == Explanation.id)
            .where(JudgeLabel.id == label_id)
        ).scalar_one_or_none()
        if said is not None and _normal(said) == _normal(sent.explanation):
            return None
    return sent.explanation


def _normal(words: str) -> str:
    return " ".join(words.split())


def undo(session: Session, reviewer: str, event_id: int) -> list[int]:
    """Undo a decision that this reviewer entered, with those recorded in the same act.

    Returns the ids of the new events: one for every decision of the act that stands still, all or
    none. UsageError where it is not theirs or does not stand any more.
    """
    event = session.get(ReviewEvent, event_id)
    if event is None or reviewer not in (event.reviewer, event.entered_by):
        raise UsageError("undo: that is no decision of yours")
    stream = stream_of(session, event.latent_id, event.taxonomy_version_id, event.reviewer)
    if not _stands(event, stream):
        raise UsageError("undo: that decision does not stand any more; see the latent's history")
    act = act_of(session, event)
    streams = _streams_of(session, act)
    decisions = [
        Decision(
            latent_id=each.latent_id,
            taxonomy_version_id=each.taxonomy_version_id,
            reviewer=each.reviewer,
            entered_by=each.entered_by,
            base_revision=streams[each.latent_id][-1].revision,
            action="undo",
        )
        for each in act
        if _stands(each, streams[each.latent_id])
    ]
    return record_decisions(session, decisions)


def act_of(session: Session, event: ReviewEvent) -> list[ReviewEvent]:
    """The decisions that were recorded together with this one, itself among them, by id."""
    query = select(ReviewEvent).where(ReviewEvent.act == event.act).order_by(ReviewEvent.id)
    return list(session.execute(query).scalars())


def act_size(session: Session, event: ReviewEvent) -> int:
    """How many decisions were recorded together with this one, itself counted."""
    query = select(func.count()).where(ReviewEvent.act == event.act)
    return session.execute(query).scalar_one()


def _streams_of(session: Session, act: Sequence[ReviewEvent]) -> dict[int, list[ReviewEvent]]:
    """By latent: its reviewer's events, oldest first."""
    streams: dict[int, list[ReviewEvent]] = {event.latent_id: [] for event in act}
    for part in chunks(streams):
        query = (
            select(ReviewEvent)
            .where(
                ReviewEvent.latent_id.in_(part),
                ReviewEvent.taxonomy_version_id == act[0].taxonomy_version_id,
                ReviewEvent.reviewer == act[0].reviewer,
            )
            .order_by(ReviewEvent.revision)
        )
        for event in session.execute(query).scalars():
            streams[event.latent_id].append(event)
    return streams


def _stands(event: ReviewEvent, stream: Sequence[ReviewEvent]) -> bool:
    standing = standing_events(stream).get(event.reviewer)
    return standing is not None and standing.id == event.id


@dataclass(frozen=True)
class Undoable:
    """What the undo key undoes."""

    event_id: int
    n: int
    """Decisions of the act, undone together."""


def undoable(session: Session, setting: Setting, reviewer: str) -> Undoable | None:
    """The act of the reviewer's newest decision that stands; None where nothing is left."""
    event = last_decision(session, setting, reviewer)
    return None if event is None else Undoable(event.id, act_size(session, event))


def last_decision(session: Session, setting: Setting, reviewer: str) -> ReviewEvent | None:
    """The reviewer's newest decision that stands: what the undo key undoes."""
    newest_first = (
        select(ReviewEvent)
        .where(
            (ReviewEvent.reviewer == reviewer) | (ReviewEvent.entered_by == reviewer),
            ReviewEvent.taxonomy_version_id == setting.taxonomy_version_id,
            ReviewEvent.action.not_in(("skip", "undo")),
        )
        .order_by(ReviewEvent.id.desc())
    )
    # The newest one nearly always stands; the others are read only where it was undone.
    for query in (newest_first.limit(1), newest_first.offset(1).limit(RECENT_EVENTS - 1)):
        events = list(session.execute(query).scalars())
        for event in events:
            stream = stream_of(session, event.latent_id, event.taxonomy_version_id, event.reviewer)
            if _stands(event, stream):
                return event
        if not events:
            break
    return None
