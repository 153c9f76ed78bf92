"""Labelled evidence: latents written by hand, with the category that a careful person gives them.

The judges are fitted and checked with it. A file is JSONL, one latent per line:
`{"id", "category", "windows": [{"role", "text"}, ...]}`; `<<...>>` in a text marks the tokens that
are active. `category` is the slug of a leaf, or `none`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

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
        windows = tuple(window_of(each["role"], each["text"]) for each in row["windows"])
        name, category = str(row["id"]), str(row["category"])
    except (KeyError, TypeError):
        raise UsageError(
            f"{where}: not a labelled latent; the form is "
            '{"id", "category", "windows": [{"role", "text"}]}: ' + one_line(line, 60)
        ) from None
    if any(window.roles[0] not in CONTENT_ROLES for window in windows if window.roles):
        raise UsageError(f"{where}: a role is none of {', '.join(sorted(CONTENT_ROLES))}")
    if not windows or any(not window.peak for window in windows):
        raise UsageError(f"{where}: each window needs a span marked <<like this>>")
    return LabelledLatent(name, category, LatentRecord(number, "labelled", number, windows))


def window_of(role: str, text: str) -> Example:
    """A window with words and marks as tokens; a token between `<<` and `>>` activates with 1."""
    tokens: list[str] = []
    activations: list[float] = []
    for number, part in enumerate(_MARKED.split(text)):
        pieces = _TOKEN.findall(part)
        tokens += pieces
        activations += [float(number % 2)] * len(pieces)
    return Example("top", "explain", tuple(tokens), (role,) * len(tokens), tuple(activations))
