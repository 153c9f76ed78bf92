"""The environment of the page templates: all that is printed is escaped, nothing invisible left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labeler.text import (
    clip,
    interval_text,
    number_text,
    one_line,
    percent_text,
    plural,
    probability_text,
    share_text,
    visible,
)

if TYPE_CHECKING:
    from jinja2 import Environment


def page_environment(package: str) -> Environment:
    """The environment of a package's folder `templates`, with what prints numbers and texts.

    An unknown name is an error.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
        auto_reload=False,
    )
    environment.filters.update(
        one_line=one_line,
        clip=clip,
        number=number_text,
        percent=percent_text,
        probability=probability_text,
        share=share_text,
    )
    environment.globals.update(plural=plural, interval=interval_text)
    return environment


def _shown(value: object) -> object:
    """Every plain text that a template prints, before it is escaped."""
    return visible(value) if type(value) is str else value
