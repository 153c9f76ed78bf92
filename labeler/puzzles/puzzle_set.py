"""The puzzles that come with difflens, read from their file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from labeler.judge.base import EvidenceWindow

_MARKED = re.compile(r"<<(.*?)>>(?!>)", re.DOTALL)
_TOKEN = re.compile(r"\s*[^\W_]+|\s*[^\w\s]|\s*_|\s+")
ROLE = "plain"


@dataclass(frozen=True)
class Puzzle:
    """Texts of one imagined latent."""

    name: str
    category: str
    language: str
    true: str
    """What it stands for."""
    false: tuple[str, ...]
    """Plausible and wrong."""
    windows: tuple[EvidenceWindow, ...]
    """Texts in which it fires on the marked tokens, then texts in which it does not."""


@cache
def puzzle_set() -> tuple[Puzzle, ...]:
    """All puzzles, in the order of the file."""
    source = resources.files("labeler.puzzles").joinpath("puzzles.yaml")
    rows = yaml.safe_load(source.read_text(encoding="utf-8"))
    return tuple(
        Puzzle(
            name=row["name"],
            category=row["category"],
            language=row["language"],
            true=row["explanation"],
            false=tuple(row["wrong"]),
            windows=(
                *(marked_window(text) for text in row["fires"]),
                *(marked_window(text) for text in row["silent"]),
            ),
        )
        for row in rows
    )


def marked_window(text: str) -> EvidenceWindow:
    """A text as evidence; tokens between `<<` and `>>` are active."""
    tokens: list[str] = []
    activations: list[float] = []
    for number, part in enumerate(_MARKED.split(text)):
        pieces = _TOKEN.findall(part)
        tokens += pieces
        activations += [float(number % 2)] * len(pieces)
    kind = "top" if any(activations) else "negative"
    roles = (ROLE,) * len(tokens)
    return EvidenceWindow(kind, "score", tuple(tokens), roles, tuple(activations))
