"""The review server of a study: its routes behind the guard."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence

from sqlalchemy import Engine
from sqlalchemy.engine import URL
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from labeler.database_url import shown_url
from labeler.review.board import Board
from labeler.review.identity import Access
from labeler.review.questions import RUNNING, Questions
from labeler.review.rendering import build_environment, read_static
from labeler.review.room import Handler, Room, endpoint
from labeler.review.routes import latent, numbers, queue, sql
from labeler.review.routes.entrance import Entrance
from labeler.review.security import Guard, HostRule
from labeler.sections.counting import ReportSection
from labeler.sql.saved import SavedQuery, saved_queries
from labeler.store.study_comparisons import NamedComparison

PAGES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/queue", queue.show_queue),
    ("GET", "/start", queue.start),
    ("GET", "/find", queue.go_to_latent),
    ("POST", "/bulk", queue.preview_bulk),
    ("POST", "/bulk/apply", queue.do_bulk),
    ("GET", "/latents/{latent_id}", latent.show_latent),
    ("POST", "/latents/{latent_id}", latent.decide_latent),
    ("POST", "/undo", latent.undo_decision),
    ("GET", "/categories", numbers.show_categories),
    ("GET", "/taxonomy", numbers.show_taxonomy),
    ("GET", "/progress", numbers.show_progress),
    ("GET", "/audit", numbers.show_audit),
    ("POST", "/audit", numbers.make_draw),
    ("GET", "/sql", sql.show_sql),
    ("POST", "/sql", sql.run_sql),
)


def build_room(
    engine: Engine,
    database_url: str | URL,
    *,
    study: str,
    title: str = "",
    reviewer: str | None = None,
    token: str | None = None,
    queries: Iterable[SavedQuery] | None = None,
    report: ReportSection | None = None,
    comparisons: Sequence[NamedComparison] | None = None,
    workers: int = 1,
) -> Room:
    """The state of one of `workers` processes of a server; UsageError for a token too short.

    The category table is counted as `report` says; `comparisons` are those of study.toml, None =
    every one of the database; `queries` are the SQL page's, None = those shipped.
    """
    return Room(
        study=study,
        title=title or study,
        engine=engine,
        board=Board(engine, comparisons),
        questions=Questions(database_url, max(1, RUNNING // workers)),
        access=Access.build(
            token, reviewer, secrets.token_bytes(32), _identity(database_url, study)
        ),
        saved={query.name: query for query in queries or saved_queries()},
        static=read_static(),
        report=report or ReportSection(),
        environment=build_environment(),
    )


def _identity(database_url: str | URL, study: str) -> str:
    """What tells one study from every other: its database and its name."""
    return f"{study}\n{shown_url(database_url)}"


def build_app(room: Room, host: str = "127.0.0.1", extra_hosts: Iterable[str] = ()) -> Guard:
    """The application, answering to the names of `host` only."""
    entrance = Entrance(room)
    routes = [
        Route(path, endpoint(room, handler), methods=[method]) for method, path, handler in PAGES
    ]
    routes += [
        Route("/", _home, methods=["GET"]),
        Route("/sign-in", entrance.show, methods=["GET"]),
        Route("/sign-in", entrance.sign_in, methods=["POST"]),
        Route("/sign-out", entrance.sign_out, methods=["POST"]),
        Route("/static/{name}", entrance.static, methods=["GET"]),
    ]
    return Guard(Starlette(routes=routes), HostRule.of(host, extra_hosts))


async def _home(request: Request) -> Response:
    return RedirectResponse("/queue", 303)
