"""The pages of numbers: category table, taxonomy, progress, random audit."""

from __future__ import annotations

from starlette.responses import Response

from labeler.errors import UsageError
from labeler.review.context import Asked, Page, redirect
from labeler.review.progress import read_progress
from labeler.review.queue_index import change_rows, reviewed_rows
from labeler.review.routes.queue import names_of
from labeler.review.table import QueueTable
from labeler.store.reviews import active_draws, draw_audit

DEFAULT_DRAW = 60
"""Latents a side from which on the corrected estimates are steadier than the plain ones."""


def show_categories(asked: Asked) -> Page:
    """Counts, change and reviewed share of every category."""
    with asked.context.queue(asked.filters) as (_, table):
        return asked.comparison_page(
            "categories.html.j2",
            "categories",
            table,
            rows=change_rows(table, asked.context.report),
            denominator=asked.context.report.denominator,
        )


def show_taxonomy(asked: Asked) -> Page:
    """Every category with its definition."""
    with asked.context.queue(asked.filters) as (_, table):
        return asked.comparison_page(
            "taxonomy.html.j2",
            "taxonomy",
            table,
            categories=table.in_tree_order(),
            target=table.count_by("category", table.is_target, asked.reviewer),
            reference=table.count_by("category", ~table.is_target, asked.reviewer),
        )


def show_progress(asked: Asked) -> Page:
    """How far everybody is, and how far they agree."""
    with asked.context.queue(asked.filters) as (session, table):
        return asked.comparison_page(
            "progress.html.j2",
            "progress",
            table,
            progress=read_progress(session, table),
            rows=[row for row in reviewed_rows(table, asked.context.report) if not row.is_empty],
            names=names_of(table.categories),
        )


def show_audit(asked: Asked) -> Page:
    """The active random draws, and the form that makes a new one."""
    with asked.context.queue(asked.filters) as (session, table):
        return asked.comparison_page(
            "audit.html.j2",
            "audit",
            table,
            draws=active_draws(session, table.setting.comparison_id),
            left=int((table.hidden(asked.reviewer)).sum()),
            sizes=_sizes(table),
            size=min(DEFAULT_DRAW, max(_sizes(table).values())),
        )


def _sizes(table: QueueTable) -> dict[str, int]:
    return {
        "target": int(table.is_target.sum()),
        "reference": int((~table.is_target).sum()),
    }


def make_draw(asked: Asked) -> Response:
    """Draw a random sample of both sides."""
    filters, form = asked.filters, asked.form
    size, seed = form.number("size"), form.number("seed")
    if size is None or seed is None:
        raise UsageError("audit: name a size and a seed, both whole numbers")
    with asked.context.writing() as session:
        with asked.context.queue_index.lock:
            table = asked.context.queue_index.table(session, filters.comparison)
            setting, most = table.setting, max(_sizes(table).values())
        if not 1 <= size <= most:
            raise UsageError(
                f"audit size: {size} is not between 1 and {most}, the latents of the larger side"
            )
        for offset, side in enumerate(("target", "reference")):
            draw_audit(session, setting.comparison_id, side, size, seed + offset, asked.reviewer)
    return redirect(f"/audit?{filters.query()}")
