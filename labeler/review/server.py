"""The review server of a study: its routes behind the guard, sign-in, who may reach it, where."""

from __future__ import annotations

import getpass
import secrets
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.engine import URL
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from labeler.errors import UsageError, WorkError
from labeler.review.access import (
    COOKIE_SECONDS,
    LOOPBACK,
    SHORTEST_TOKEN,
    Access,
    Guard,
    HostRule,
    checked_name,
)
from labeler.review.context import (
    Context,
    Handler,
    build_environment,
    endpoint,
    read_static,
    render,
)
from labeler.review.deciding import read_form
from labeler.review.queue_index import QueueIndex
from labeler.review.routes import numbers, queue, sql
from labeler.review.turns import RUNNING, Questions
from labeler.store.comparisons import NamedComparison
from labeler.store.database_url import shown_url
from labeler.store.query.saved_queries import SavedQuery, saved_queries
from labeler.study.config import ReportSection
from labeler.text import plural

SIGN_IN_AGAIN = (
    "Your sign-in is over: its time has passed, or the server was started again. Nothing that you"
    " sent since was recorded."
)
LARGEST_TOKEN_FILE = 4_096
WAITING_AT_START = 128


class Auth:
    """The routes that are open to somebody who has not said who they are."""

    def __init__(self, context: Context) -> None:
        self.context = context

    async def show(self, request: Request) -> Response:
        """The form that asks for a name, and for the token where there is one."""
        access = self.context.access
        cookie = request.cookies.get(access.cookie_name)
        is_old = cookie is not None and access.reviewer(cookie) is None
        return self._form(access.claimed_name(cookie), SIGN_IN_AGAIN if is_old else "")

    async def sign_in(self, request: Request) -> Response:
        """Check the token and remember the name."""
        access, name = self.context.access, ""
        address = request.client.host if request.client else ""
        try:
            form = await read_form(request)
            name = form.one("name")
            wait = self.context.guesses.wait(address)
            if access.token is not None and wait:
                return self._too_often(name, wait)
            if not access.is_token(form.one("token")):
                self.context.guesses.wrong(address)
                raise UsageError("token: is not the one of this server")
            self.context.guesses.right(address)
            cookie = access.cookie(checked_name(name))
        except UsageError as error:
            return self._form(name, str(error), 403)
        answer = RedirectResponse("/queue", 303)
        answer.set_cookie(
            access.cookie_name,
            cookie,
            max_age=COOKIE_SECONDS,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    async def sign_out(self, request: Request) -> Response:
        """Forget the name."""
        answer = RedirectResponse("/sign-in", 303)
        answer.delete_cookie(self.context.access.cookie_name)
        return answer

    def _form(self, name: str, message: str, status: int = 200) -> Response:
        return render(
            self.context, "sign_in.html.j2", status, name=name, message=message, section=""
        )

    def _too_often(self, name: str, wait: int) -> Response:
        words = f"token: too many wrong ones; the next is looked at in {plural(wait, 'second')}"
        answer = self._form(name, words, 429)
        answer.headers["Retry-After"] = str(wait)
        return answer

    async def static(self, request: Request) -> Response:
        """A file of the pages, from memory."""
        file = self.context.static.get(request.path_params["name"])
        if file is None:
            return PlainTextResponse("no such file\n", 404)
        return Response(
            file.content,
            media_type=file.content_type,
            headers={"Cache-Control": "public, max-age=31536000, immutable"},
        )


@dataclass(frozen=True)
class ServerOptions:
    """The options of `difflens review`."""

    host: str = "127.0.0.1"
    port: int = 8400
    reviewer: str | None = None
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    allow_hosts: tuple[str, ...] = ()
    workers: int | None = None
    """Processes that answer; None = one, and with a token, which several share, one per core."""


def serve(study_path: Path, options: ServerOptions) -> None:
    """Serve the pages until interrupted.

    UsageError for options that do not go together or a study without a database; WorkError where
    the port is taken.
    """
    import typer

    from labeler.api import Study
    from labeler.review.serving import default_workers, serve_context

    token = read_token(options)
    require_token(options.host, token)
    name = None if token else checked_name(options.reviewer or getpass.getuser())
    workers = options.workers or default_workers(is_shared=token is not None)
    study = Study.open(study_path)
    with study.engine() as engine:
        context = build_context(
            engine,
            study.file.database_url,
            study=study.file.config.study.name,
            title=study.file.config.study.title or "",
            reviewer=name,
            token=token,
            queries=saved_queries(study.file.query_folder),
            report=study.file.config.report,
            comparisons=study.file.config.comparison,
            workers=workers,
        )
        context.queue_index.names()
        with listening(options.host, options.port) as listener:
            port = listener.getsockname()[1]
            typer.echo(f"difflens review: {url_of(options.host, port)}  (Ctrl-C ends it)", err=True)
            app = build_app(context, options.host, options.allow_hosts)
            serve_context(context, app, listener, workers)


def read_token(options: ServerOptions) -> str | None:
    """The token from its option or file; UsageError for both at once or a file without one."""
    if options.token_file is None:
        return options.token
    if options.token is not None:
        raise UsageError("--token, --token-file: name one of them")
    try:
        with options.token_file.open(encoding="utf-8") as source:
            token = source.read(LARGEST_TOKEN_FILE).partition("\n")[0].strip()
    except OSError as error:
        raise UsageError(
            f"--token-file: {options.token_file} cannot be read: {error.strerror}"
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"--token-file: {options.token_file} is not UTF-8 text") from None
    if not token:
        raise UsageError(f"--token-file: the first line of {options.token_file} is empty")
    if len(token) < SHORTEST_TOKEN:
        raise UsageError(
            f"--token-file: the first line of {options.token_file} is shorter than"
            f" {SHORTEST_TOKEN} characters"
        )
    return token


def require_token(host: str, token: str | None) -> None:
    """UsageError where others could reach the server without a token."""
    if token is None and host not in LOOPBACK:
        raise UsageError(f"--host {host}: others can reach it, so it needs --token or --token-file")


def url_of(host: str, port: int) -> str:
    """What to open in the browser."""
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
    return f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"


def listening(host: str, port: int) -> socket.socket:
    """A socket that takes connections; WorkError where the address is not to be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(WAITING_AT_START)
    except OSError as error:
        listener.close()
        raise WorkError(
            f"review: cannot listen on {host}:{port}: {error.strerror}; another --port may be free"
        ) from None
    return listener


PAGES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/queue", queue.show_queue),
    ("GET", "/start", queue.start),
    ("GET", "/find", queue.go_to_latent),
    ("POST", "/bulk", queue.preview_bulk),
    ("POST", "/bulk/apply", queue.do_bulk),
    ("GET", "/latents/{latent_id}", queue.show_latent),
    ("POST", "/latents/{latent_id}", queue.decide_latent),
    ("POST", "/undo", queue.undo_decision),
    ("GET", "/categories", numbers.show_categories),
    ("GET", "/taxonomy", numbers.show_taxonomy),
    ("GET", "/progress", numbers.show_progress),
    ("GET", "/audit", numbers.show_audit),
    ("POST", "/audit", numbers.make_draw),
    ("GET", "/sql", sql.show_sql),
    ("POST", "/sql", sql.run_sql),
)


def build_context(
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
) -> Context:
    """The state of one of `workers` processes of a server; UsageError for a token too short.

    The category table is counted as `report` says; `comparisons` are those of study.toml, None =
    every one of the database; `queries` are the SQL page's, None = those shipped.
    """
    return Context(
        study=study,
        title=title or study,
        engine=engine,
        queue_index=QueueIndex(engine, comparisons),
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


def build_app(context: Context, host: str = "127.0.0.1", extra_hosts: Iterable[str] = ()) -> Guard:
    """The application, answering to the names of `host` only."""
    auth = Auth(context)
    routes = [
        Route(path, endpoint(context, handler), methods=[method]) for method, path, handler in PAGES
    ]
    routes += [
        Route("/", _home, methods=["GET"]),
        Route("/sign-in", auth.show, methods=["GET"]),
        Route("/sign-in", auth.sign_in, methods=["POST"]),
        Route("/sign-out", auth.sign_out, methods=["POST"]),
        Route("/static/{name}", auth.static, methods=["GET"]),
    ]
    return Guard(Starlette(routes=routes), HostRule.of(host, extra_hosts))


async def _home(request: Request) -> Response:
    return RedirectResponse("/queue", 303)
