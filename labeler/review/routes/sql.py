"""The SQL page: one read-only statement, typed or saved."""

from __future__ import annotations

import time

from starlette.responses import Response

from labeler.errors import UsageError, WorkError
from labeler.review.room import Asked
from labeler.sql import QueryResult, format_result, run_query

MAX_ROWS = 1_000
MAX_DOWNLOAD_ROWS = 1_000_000
TIMEOUT_S = 10.0
DOWNLOADS = {"csv": "text/csv; charset=utf-8", "json": "application/json"}


def show_sql(asked: Asked) -> Response:
    """The page; a saved query fills the form and waits for its button."""
    saved = asked.room.saved.get(asked.request.query_params.get("saved", ""))
    return _page(
        asked, statement=saved.statement if saved else "", saved=saved.name if saved else ""
    )


def run_sql(asked: Asked) -> Response:
    """Run what was typed."""
    statement = asked.form.one("statement")
    kind = asked.form.one("format")
    if kind in DOWNLOADS:
        result = run_query(
            asked.room.database_url, statement, max_rows=MAX_DOWNLOAD_ROWS, timeout=TIMEOUT_S
        )
        return Response(
            format_result(result, kind),
            media_type=DOWNLOADS[kind],
            headers={"Content-Disposition": f'attachment; filename="query.{kind}"'},
        )
    begin = time.perf_counter()
    try:
        found = run_query(asked.room.database_url, statement, max_rows=MAX_ROWS, timeout=TIMEOUT_S)
    except (UsageError, WorkError) as error:
        return _page(asked, statement=statement, message=str(error), status=400)
    seconds = time.perf_counter() - begin
    return _page(asked, statement=statement, result=found, seconds=seconds)


def _page(
    asked: Asked,
    *,
    statement: str,
    saved: str = "",
    result: QueryResult | None = None,
    message: str = "",
    seconds: float = 0.0,
    status: int = 200,
) -> Response:
    return asked.page(
        "sql.html.j2",
        status,
        section="sql",
        filters=asked.filters,
        queries=list(asked.room.saved.values()),
        statement=statement,
        saved=saved,
        result=result,
        message=message,
        seconds=seconds,
        max_rows=MAX_ROWS,
        timeout=TIMEOUT_S,
    )
