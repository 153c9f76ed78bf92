"""The pages of the queue: its list, one action on all of it, each latent with its decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from sqlalchemy.orm import Session
from starlette.responses import Response

from labeler.errors import UsageError
from labeler.review.context import Asked, NotFoundError, Page, redirect
from labeler.review.deciding import (
    REASONS,
    Submission,
    decide,
    read_submission,
    undo,
    undoable,
    whole_number,
)
from labeler.review.latents import latent_page, voice_of
from labeler.review.queue import (
    ACTIONS,
    BulkAction,
    BulkChangedError,
    BulkPlan,
    apply_bulk,
    matching,
    plan_bulk,
    queue_page,
    read_action,
    surroundings,
)
from labeler.review.queue_table import ORDERS, Filters, Leaf, QueueTable
from labeler.review.queued_latents import QueuedLatent
from labeler.store.engine import WriteLockedError, read_session
from labeler.store.latents import find_latent
from labeler.store.outcomes import BY_NAME, WITHOUT_CATEGORY
from labeler.store.reviews import RevisionConflictError, stream_of
from labeler.store.schema import ReviewEvent
from labeler.text import clip

SHOWN_LATENTS = 500
"""Latents that a preview lists; the action is on all of them."""


@dataclass(frozen=True)
class RefusedBulk:
    """A bulk action that says nothing valid."""

    action: BulkAction
    words: str


def show_queue(asked: Asked) -> Page:
    """The list."""
    return _queue(asked, None)


def _queue(asked: Asked, refused: RefusedBulk | None) -> Page:
    """The list; a bulk action that was refused stays in its form, with what is wrong."""
    filters = asked.filters
    query = asked.request.query_params
    after = query.get("after")
    with asked.context.queue(filters) as (session, table):
        names = names_of(table.categories)
        if filters.category and filters.category not in names:
            raise UsageError(
                f"category: {filters.category!r} is not known; choose from {', '.join(names)}"
            )
        done = whole_number(query.get("bulk"))
        page = queue_page(table, filters, asked.reviewer, after)
        return asked.comparison_page(
            "queue.html.j2",
            "queue",
            table,
            200 if refused is None else 400,
            page=page,
            orders=ORDERS,
            categories=table.in_tree_order(),
            names=names,
            bulk_actions=ACTIONS,
            refused=refused,
            done=done,
            undone=whole_number(query.get("undone")),
            undoable=None if done is None else undoable(session, table.setting, asked.reviewer),
        )


def go_to_latent(asked: Asked) -> Response:
    """The latent that is named, as `crosscoder:index` or by its id, or a search for the words."""
    words = asked.request.query_params.get("text", "").strip()
    try:
        with read_session(asked.context.engine) as session:
            latent = find_latent(session, words)
    except UsageError:
        return redirect(f"/queue?{replace(asked.filters, text=words).query()}")
    return redirect(f"/latents/{latent.id}?{asked.filters.query(text='')}")


def start(asked: Asked) -> Response:
    """The first latent of the queue, or the empty queue."""
    filters = asked.filters
    with asked.context.queue(filters) as (_, table):
        rows = matching(table, filters, asked.reviewer)
        if not len(rows):
            return redirect(f"/queue?{filters.query()}")
        return redirect(f"/latents/{int(table.latent_id[rows[0]])}?{filters.query()}")


def preview_bulk(asked: Asked) -> Page:
    """The latents an action would change, before anything is done."""
    filters, form = asked.filters, asked.form
    with asked.context.queue(filters) as (session, table):
        chosen = BulkAction(form.one("action"), form.one("category"), form.one("note"))
        try:
            action = read_action(chosen.action, chosen.category, chosen.note, table)
        except UsageError as error:
            return _queue(asked, RefusedBulk(chosen, str(error)))
        plan = plan_bulk(session, table, filters, asked.reviewer, action)
        return _shown(asked, plan, names_of(table.categories))


def do_bulk(asked: Asked) -> Page | Response:
    """Do what was shown; where the latents have changed since, show them again."""
    filters, form = asked.filters, asked.form
    with asked.context.writing() as session:
        with asked.context.queue_index.lock:
            table = asked.context.queue_index.table(session, filters.comparison)
            action = read_action(form.one("action"), form.one("category"), form.one("note"), table)
            plan = plan_bulk(session, table, filters, asked.reviewer, action)
        try:
            count = apply_bulk(session, table, plan, asked.reviewer, form.one("digest"))
        except BulkChangedError as error:
            return _shown(asked, error.plan, names_of(table.categories), status=409)
    return redirect(f"/queue?{filters.query()}&{urlencode({'bulk': count})}")


def _shown(asked: Asked, plan: BulkPlan, names: dict[str, str], status: int = 200) -> Page:
    return asked.page(
        "bulk.html.j2",
        status,
        section="queue",
        filters=asked.filters,
        plan=plan,
        names=names,
        actions=ACTIONS,
        shown=plan.changed[:SHOWN_LATENTS],
        changed_since=status == 409,
    )


def names_of(categories: Mapping[str, Leaf]) -> dict[str, str]:
    """Title by slug, reserved outcomes too."""
    return {slug: leaf.name for slug, leaf in categories.items()} | {
        name: BY_NAME[name].short for name in WITHOUT_CATEGORY
    }


@dataclass(frozen=True)
class Done:
    """What the reviewer did last, shown on the page that follows."""

    event_id: int
    latent: str
    latent_id: int
    answer: str
    judge_answer: str | None
    """Of a blind decision: what the judge had said."""


def show_latent(asked: Asked) -> Page:
    """One latent."""
    filters, latent_id = asked.filters, _latent_id(asked)
    query = asked.request.query_params
    with asked.context.queue(filters) as (session, table):
        latent = _latent(table, latent_id)
        adjudicate = query.get("as") == "adjudicated"
        page = latent_page(session, table, latent, asked.reviewer, adjudicate)
        around = surroundings(table, filters, asked.reviewer, latent_id)
        return asked.page(
            "latent.html.j2",
            section="queue",
            filters=filters,
            comparison=table.setting.comparison,
            page=page,
            latent=latent,
            names=names_of(table.categories),
            categories=table.in_tree_order(),
            reasons=REASONS,
            left=around.n,
            next_id=around.next_id,
            previous_id=around.previous_id,
            adjudicate=adjudicate and not page.hidden,
            done=_done(session, table, asked.reviewer, query.get("done")),
            undoable=undoable(session, table.setting, asked.reviewer),
        )


def decide_latent(asked: Asked) -> Page | Response:
    """Record a decision and go on to the next latent; a stale one is answered with 409."""
    filters, latent_id = asked.filters, _latent_id(asked)
    sent = read_submission(asked.form, asked.reviewer)
    try:
        with asked.context.writing() as session:
            with asked.context.queue_index.lock:
                table = asked.context.queue_index.table(session, filters.comparison)
                latent = _latent(table, latent_id)
                following = surroundings(table, filters, asked.reviewer, latent_id).next_id
            event = decide(session, table.setting, latent, filters, asked.reviewer, sent)
            event_id, is_skip = event.id, event.action == "skip"
    except RevisionConflictError as error:
        return _conflict(asked, latent_id, filters, sent, error)
    except WriteLockedError as error:
        return _unrecorded(asked, latent_id, filters, sent, error)
    said = "" if is_skip else "&" + urlencode({"done": event_id})
    if following is None:
        return redirect(f"/queue?{filters.query()}")
    return redirect(f"/latents/{following}?{filters.query()}{said}")


def _conflict(
    asked: Asked,
    latent_id: int,
    filters: Filters,
    sent: Submission,
    error: RevisionConflictError,
) -> Page:
    """The current decision next to the one that was sent, and a form that sends it again."""
    with asked.context.queue(filters) as (session, table):
        latent = _latent(table, latent_id)
        events = stream_of(session, latent_id, table.setting.taxonomy_version_id, sent.stream)
        newer = [
            voice_of(session, event) for event in events if event.revision > sent.base_revision
        ]
        return asked.page(
            "conflict.html.j2",
            409,
            section="queue",
            filters=filters,
            latent=latent,
            names=names_of(table.categories),
            sent=sent,
            newer=newer,
            current_revision=error.current_revision,
            reasons=REASONS,
        )


def _unrecorded(
    asked: Asked, latent_id: int, filters: Filters, sent: Submission, error: WriteLockedError
) -> Page:
    """Why a decision was not taken, and a form that sends it again: nothing of it is lost."""
    with asked.context.queue(filters) as (_, table):
        return asked.page(
            "unrecorded.html.j2",
            503,
            section="queue",
            filters=filters,
            latent=_latent(table, latent_id),
            names=names_of(table.categories),
            sent=sent,
            message=str(error),
            reasons=REASONS,
        )


def undo_decision(asked: Asked) -> Response:
    """Undo a decision of the reviewer and show its latent again."""
    event_id = asked.form.number("event_id")
    if event_id is None:
        raise UsageError("undo: nothing of yours is left to undo")
    with asked.context.writing() as session:
        undone = undo(session, asked.reviewer, event_id)
        latent_id = session.get_one(ReviewEvent, undone[0]).latent_id
    if len(undone) > 1:
        return redirect(f"/queue?{asked.filters.query()}&{urlencode({'undone': len(undone)})}")
    return redirect(f"/latents/{latent_id}?{asked.filters.query()}")


def _latent_id(asked: Asked) -> int:
    text = asked.request.path_params["latent_id"]
    number = whole_number(text)
    if number is None:
        raise NotFoundError(f"latent {clip(text, 40)!r}: there is none of that number")
    return number


def _latent(table: QueueTable, latent_id: int) -> QueuedLatent:
    latent = table.find(latent_id)
    if latent is None:
        raise UsageError(f"latent {latent_id}: is not in comparison {table.setting.comparison!r}")
    return latent


def _done(session: Session, table: QueueTable, reviewer: str, text: str | None) -> Done | None:
    """What `done=` in the URL names, where it is this reviewer's and of this comparison."""
    event_id = whole_number(text)
    event = None if event_id is None else session.get(ReviewEvent, event_id)
    if event is None or reviewer not in (event.reviewer, event.entered_by):
        return None
    latent = table.find(event.latent_id)
    if latent is None:
        return None
    return Done(
        event_id=event.id,
        latent=f"{latent.crosscoder}:{latent.latent_index}",
        latent_id=latent.latent_id,
        answer=latent.voices.get(event.reviewer, "undone"),
        judge_answer=latent.judge_answer if event.was_blind else None,
    )
