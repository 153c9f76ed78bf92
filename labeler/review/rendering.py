"""Templates of the pages: everything that is printed is escaped, and nothing invisible is left."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from jinja2 import Environment
from markupsafe import Markup, escape

from labeler.report.highlight import Run, runs_of
from labeler.report.html import KIND_TITLES, VERDICT_SIGNS
from labeler.report.model import EvidenceView
from labeler.sql import shown_number
from labeler.templates import page_environment
from labeler.text import (
    visible,
)

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
