"""Labelled evidence: latents written by hand, with the category that a careful person gives them.

The judges are fitted and checked with it. A file is JSONL, one latent per line:
`{"id", "category", "windows": [{"role", "text"}, ...]}`; `<<...>>` in a text marks the tokens that
are active. `category` is the slug of a leaf, or `none`. A window of a real latent is
`{"tokens", "roles", "activations"}`. Rows that two people labelled have the `second` one's
category, and in `also` what either would have accepted besides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from crosscoder.files import json_sha256
from crosscoder.limits import lines_of, parse_row, read_text
from labeler.errors import UsageError
from labeler.judge.base import CONTENT_ROLES, Example, LatentRecord
from labeler.text import one_line

NONE = "none"
"""Category of a latent that no leaf describes."""
FITTING = "evidence/fitting.jsonl"
_MARKED = re.compile(r"<<(.*?)>>", re.DOTALL)
_TOKEN = re.compile(r"\s*[^\W_]+|\s*[^\w\s]|\s*_|\s+")


@dataclass(frozen=True)
class LabelledLatent:
    """A latent whose category a person gave."""

    name: str
    category: str
    subject: LatentRecord
    second: str | None = None
    """What another person gave, who did not know of the first."""
    also: tuple[str, ...] = ()
    """Categories that could be defended as well."""


@lru_cache(maxsize=1)
def fitting_set() -> tuple[LabelledLatent, ...]:
    """The latents of the package on which the embedded judge's head is fitted."""
    text = resources.files("labeler.judge").joinpath(FITTING).read_text("utf-8")
    return labelled_latents(text, FITTING)


def read_labelled(path: Path) -> tuple[LabelledLatent, ...]:
    """The labelled latents of a file; UsageError names the line that is not of the form."""
    return labelled_latents(read_text(path), path)


def labelled_latents(text: str, where: object) -> tuple[LabelledLatent, ...]:
    """The labelled latents of a JSONL text; `where` names it in messages."""
    return tuple(
        _latent(number, f"{where}, line {number}", line) for number, line in lines_of(text, where)
    )


def labelled_sha256(latents: Sequence[LabelledLatent]) -> str:
    """Hash of what a fit reads of labelled latents."""
    rows = [
        [
            latent.category,
            *([one.tokens, one.roles, one.activations] for one in latent.subject.windows),
        ]
        for latent in latents
    ]
    return json_sha256(rows)


def _latent(number: int, where: str, line: str) -> LabelledLatent:
    row = parse_row(line, where)
    try:
        windows = tuple(_window(each) for each in row["windows"])
        name, category = str(row["id"]), str(row["category"])
        second, also = row.get("second"), tuple(map(str, row.get("also", ())))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UsageError(
            f"{where}: not a labelled latent; the form is "
            '{"id", "category", "windows": [{"role", "text"}]}: ' + one_line(line, 60)
        ) from None
    if any(CONTENT_ROLES.isdisjoint(window.roles) for window in windows):
        raise UsageError(f"{where}: a window has no role of {', '.join(sorted(CONTENT_ROLES))}")
    if not windows or any(not window.peak for window in windows):
        raise UsageError(f"{where}: each window needs a span marked <<like this>>")
    record = LatentRecord(number, "labelled", number, windows)
    return LabelledLatent(name, category, record, None if second is None else str(second), also)


def _window(row: dict[str, Any]) -> Example:
    if "tokens" not in row:
        return window_of(row["role"], row["text"])
    tokens, roles = tuple(map(str, row["tokens"])), tuple(map(str, row["roles"]))
    return Example("top", "explain", tokens, roles, tuple(map(float, row["activations"])))


def window_of(role: str, text: str) -> Example:
    """A window with words and marks as tokens; a token between `<<` and `>>` activates with 1."""
    tokens: list[str] = []
    activations: list[float] = []
    for number, part in enumerate(_MARKED.split(text)):
        pieces = _TOKEN.findall(part)
        tokens += pieces
        activations += [float(number % 2)] * len(pieces)
    return Example("top", "explain", tuple(tokens), (role,) * len(tokens), tuple(activations))
