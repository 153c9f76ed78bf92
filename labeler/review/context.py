"""What every page needs: the study, its queues, who asks, and how a page is rendered."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from threading import Event
from types import MappingProxyType
from typing import Any

from jinja2 import Environment
from markupsafe import Markup, escape
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from labeler.errors import UsageError, WorkError
from labeler.report.html import KIND_TITLES, VERDICT_SIGNS, Run, page_environment, runs_of
from labeler.report.latent_effects import MEANING
from labeler.report.model import EvidenceView
from labeler.report.shift_bar import shift_bar, shift_word
from labeler.review.access import Access, Guesses
from labeler.review.deciding import Form, read_form
from labeler.review.queue_index import QueueIndex
from labeler.review.queue_table import Filters, QueueTable
from labeler.review.turns import NoTurnError, Questions, Turns
from labeler.store.engine import WriteLockedError, read_session, write_session
from labeler.store.query.query import shown_number
from labeler.store.query.saved_queries import SavedQuery
from labeler.store.secrets import masked
from labeler.study.config import ReportSection
from labeler.text import clip, visible

PACKAGE = "labeler.review"
CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


@dataclass(frozen=True)
class StaticFile:
    """A file of the pages, held in memory: no request names a path."""

    content: bytes
    content_type: str
    version: str
    """Start of its hash, so that a browser may keep it for good."""


@cache
def read_static() -> Mapping[str, StaticFile]:
    """Every file that the server hands out, by name."""
    files = {}
    for entry in resources.files(PACKAGE).joinpath("static").iterdir():
        suffix = "." + entry.name.rpartition(".")[2]
        if suffix in CONTENT_TYPES:
            content = entry.read_bytes()
            version = hashlib.sha256(content).hexdigest()[:12]
            files[entry.name] = StaticFile(content, CONTENT_TYPES[suffix], version)
    return files


@cache
def build_environment() -> Environment:
    """The templates' environment; templates are compiled once for each process."""
    static = read_static()
    environment = page_environment(PACKAGE)
    environment.filters["shown_number"] = shown_number
    environment.globals.update(
        shift_bar=shift_bar,
        shift_word=shift_word,
        effect_meaning=MEANING,
        highlighted=highlighted,
        kind_titles=KIND_TITLES,
        verdict_signs=VERDICT_SIGNS,
        asset=lambda name: f"/static/{name}?v={static[name].version}",
    )
    return environment


LINE_BREAK = '<span class="nl" aria-hidden="true">⏎</span>\n'
STRONG = 0.6
"""Opacity from which on the text of a highlight is bold."""


def highlighted(window: EvidenceView, largest: float) -> Markup:
    """A window's text with its tokens highlighted; a page holds hundreds of them.

    `largest` is the activation shown at full strength.
    """
    return Markup("").join(_run(run) for run in runs_of(window, largest))


def _run(run: Run) -> Markup:
    text = LINE_BREAK.join(escape(visible(line)) for line in run.lines)
    if run.opacity > 0:
        strong = " strong" if run.opacity >= STRONG else ""
        text = (
            f'<mark class="{strength_class(run.opacity)}{strong}"'
            f' title="activation {run.activation:.3g}">{text}</mark>'
        )
    elif run.is_dim:
        text = f'<span class="dim">{text}</span>'
    role = f'<b class="role">{escape(run.speaker)}</b>' if run.speaker else ""
    return Markup(role + text)


def strength_class(opacity: float) -> str:
    """The class of a highlight: the policy allows no inline style, so strengths are in percent."""
    return f"a{round(100 * opacity)}"


LONGEST_WRITE_WAIT_S = 5.0
WAITING_WRITES = 16
"""Writes that wait for their turn: fewer than the server's threads, so that pages have some."""


@dataclass(frozen=True)
class Context:
    """The server's state; of its fields only the queue index and the guesses change."""

    study: str
    title: str
    engine: Engine
    queue_index: QueueIndex
    questions: Questions
    access: Access
    report: ReportSection
    """How the change is counted and tested."""
    saved: Mapping[str, SavedQuery]
    static: Mapping[str, StaticFile]
    environment: Environment
    guesses: Guesses = field(default_factory=Guesses)
    writes: Turns = field(default_factory=lambda: Turns(1, WAITING_WRITES, LONGEST_WRITE_WAIT_S))

    @contextmanager
    def queue(self, filters: Filters) -> Iterator[tuple[Session, QueueTable]]:
        """A snapshot of the database and the queue that is equal to it."""
        with read_session(self.engine) as session, self.queue_index.lock:
            yield session, self.queue_index.table(session, filters.comparison)

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that writes; it holds the database's write lock, where there is one.

        WriteLockedError where others write for longer than a reviewer waits. Never ask for it
        while the lock of the queue index is held: every page waits for that one.
        """
        try:
            with self.writes.turn() as left, write_session(self.engine, max(left, 0.5)) as session:
                yield session
        except NoTurnError as error:
            raise WriteLockedError(
                f"others write to the study ({error}); nothing was recorded"
            ) from None


NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Page:
    """A page that is still to be rendered: by then its maker holds the queue no longer.

    Rendering takes longer than all that is read from the queue, and a decision waits for the queue
    while every other process waits for that decision.
    """

    template: str
    status: int
    headers: Mapping[str, str]
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """A request of a reviewer."""

    context: Context
    request: Request
    reviewer: str
    form: Form
    gone: Event = field(default_factory=Event)
    """Set once the reviewer's browser has closed the connection."""

    def is_gone(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.gone.is_set()

    @property
    def filters(self) -> Filters:
        """The filters in the URL."""
        return Filters.read(dict(self.request.query_params))

    def page(
        self,
        template: str,
        status: int = 200,
        headers: Mapping[str, str] = NO_HEADERS,
        **values: Any,
    ) -> Page:
        """A page of this reviewer; nothing in `values` may change once the queue is let go."""
        return Page(template, status, headers, values)

    def comparison_page(
        self, template: str, section: str, table: QueueTable, status: int = 200, **values: Any
    ) -> Page:
        """A page about the comparison of a queue, from which another one can be chosen."""
        return self.page(
            template,
            status,
            section=section,
            filters=self.filters,
            comparison=table.setting.comparison,
            comparisons=self.context.queue_index.names(),
            **values,
        )

    def rendered(self, made: Page | Response) -> Response:
        """What a handler made, as it is sent."""
        if isinstance(made, Response):
            return made
        answer = render(
            self.context, made.template, made.status, reviewer=self.reviewer, **made.values
        )
        answer.headers.update(made.headers)
        return answer


class NotFoundError(UsageError):
    """The address names nothing."""


Handler = Callable[[Asked], Page | Response]


def render(
    context: Context,
    template: str,
    status: int = 200,
    *,
    reviewer: str | None = None,
    **values: Any,
) -> HTMLResponse:
    """A page."""
    text = context.environment.get_template(template).render(
        study=context.study,
        study_title=context.title,
        reviewer=reviewer,
        shares_token=context.access.token is not None,
        **values,
    )
    return HTMLResponse(text, status)


def endpoint(context: Context, handler: Handler) -> Callable[[Request], Any]:
    """A route that asks for a reviewer, reads the form, and turns errors into pages."""

    async def answer(request: Request) -> Response:
        reviewer = context.access.reviewer(request.cookies.get(context.access.cookie_name))
        if reviewer is None:
            return RedirectResponse("/sign-in", 303)
        try:
            form = await read_form(request) if request.method == "POST" else Form({})
            _require_own_page(form, reviewer)
            asked = Asked(context, request, reviewer, form)
            async with _watched(asked):
                return await run_in_threadpool(lambda: asked.rendered(handler(asked)))
        except NotFoundError as error:
            return _failed(context, reviewer, 404, error)
        except UsageError as error:
            return _failed(context, reviewer, 400, error)
        except WriteLockedError as error:
            return _failed(context, reviewer, 503, WorkError(f"{error}; send it again"))
        except WorkError as error:
            return _failed(context, reviewer, 409, error)
        except DBAPIError as error:
            words = clip(str(error.orig).strip().partition("\n")[0], 300)
            line = WorkError(f"the database did not take it: {words}; nothing was changed")
            return _failed(context, reviewer, 503, line)

    return answer


@asynccontextmanager
async def _watched(asked: Asked) -> AsyncIterator[None]:
    """Notice while a form is answered that its sender has gone."""
    if asked.request.method != "POST":
        yield
        return

    async def watch() -> None:
        while (await asked.request.receive())["type"] != "http.disconnect":
            pass
        asked.gone.set()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


def _require_own_page(form: Form, reviewer: str) -> None:
    """WorkError for a page that was made for another reviewer: somebody signed in since."""
    made_for = form.one("made_for")
    if made_for and made_for != reviewer:
        raise WorkError(
            f"this page was made for {made_for}, and you are signed in as {reviewer}: nothing was"
            " recorded; sign in under the right name and send it again"
        )


def _failed(context: Context, reviewer: str, status: int, error: Exception) -> Response:
    return render(
        context, "failed.html.j2", status, reviewer=reviewer, message=masked(str(error)), section=""
    )


def redirect(url: str) -> RedirectResponse:
    """Go on with another page."""
    return RedirectResponse(url, 303)
