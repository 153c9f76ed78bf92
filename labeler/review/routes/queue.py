"""The queue: a list with filters, and one action on all that it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from starlette.responses import Response

from labeler.errors import UsageError
from labeler.review.bulk import (
    ACTIONS,
    BulkAction,
    BulkChangedError,
    BulkPlan,
    apply_bulk,
    plan_bulk,
    read_action,
)
from labeler.review.context import Asked, Page, redirect
from labeler.review.deciding import undoable, whole_number
from labeler.review.filters import ORDERS
from labeler.review.queue import matching, queue_page
from labeler.review.table import Leaf
from labeler.store.engine import read_session
from labeler.store.latents import find_latent
from labeler.store.outcomes import BY_NAME, WITHOUT_CATEGORY

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
