"""The SQL page: one read-only statement, typed or saved."""

from __future__ import annotations

import time
from collections.abc import Mapping

from starlette.responses import Response

from labeler.errors import UsageError, WorkError
from labeler.review.context import NO_HEADERS, Asked, Page
from labeler.review.turns import NICE, BusyError
from labeler.store.query.query import format_result
from labeler.store.query.result import Limits, QueryResult

TIMEOUT_S = 10.0
SHOWN = Limits(1_000, TIMEOUT_S, max_bytes=2_000_000, is_shown=True, nice=NICE)
"""What the page prints: so much that a browser, and the thread that writes it, take it at once."""
DOWNLOADED = Limits(1_000_000, TIMEOUT_S, max_bytes=100_000_000, nice=NICE)
BUSY_S = 5
"""Seconds after which a busy page may be asked again."""
DOWNLOADS = {"csv": "text/csv; charset=utf-8", "json": "application/json"}


def show_sql(asked: Asked) -> Page:
    """The page; a saved query fills the form and waits for its button."""
    saved = asked.context.saved.get(asked.request.query_params.get("saved", ""))
    return _page(
        asked, statement=saved.statement if saved else "", saved=saved.name if saved else ""
    )


def run_sql(asked: Asked) -> Page | Response:
    """Run what was typed."""
    statement = asked.form.one("statement")
    kind = asked.form.one("format")
    try:
        with asked.context.questions.turn(asked.is_gone) as ask:
            if kind in DOWNLOADS:
                return _download(ask(statement, DOWNLOADED), kind)
            begin = time.perf_counter()
            found = ask(statement, SHOWN)
            seconds = time.perf_counter() - begin
            # Rendered before the turn ends: it is as large as the answer.
            return asked.rendered(_page(asked, statement=statement, result=found, seconds=seconds))
    except BusyError as error:
        busy = {"Retry-After": str(BUSY_S)}
        return _page(asked, statement=statement, message=str(error), status=503, headers=busy)
    except (UsageError, WorkError) as error:
        return _page(asked, statement=statement, message=str(error), status=400)


def _download(result: QueryResult, kind: str) -> Response:
    return Response(
        format_result(result, "spreadsheet" if kind == "csv" else kind),
        media_type=DOWNLOADS[kind],
        headers={"Content-Disposition": f'attachment; filename="query.{kind}"'},
    )


def _page(
    asked: Asked,
    *,
    statement: str,
    saved: str = "",
    result: QueryResult | None = None,
    message: str = "",
    seconds: float = 0.0,
    status: int = 200,
    headers: Mapping[str, str] = NO_HEADERS,
) -> Page:
    return asked.page(
        "sql.html.j2",
        status,
        headers,
        section="sql",
        filters=asked.filters,
        queries=list(asked.context.saved.values()),
        statement=statement,
        saved=saved,
        result=result,
        message=message,
        seconds=seconds,
        max_rows=SHOWN.max_rows,
        timeout=TIMEOUT_S,
    )
