"""Renders evidence for a prompt: turns with marked tokens, in a frame that text cannot close."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from crosscoder.files import sha256_text
from labeler.judge.base import (
    CONTENT_ROLES,
    CategoryOption,
    Example,
    LatentFacts,
    ShownExample,
)

MARK_SHARE = 0.3
"""A token is marked where its activation exceeds this share of the example's peak."""


@dataclass(frozen=True)
class Turn:
    """A run of content tokens of one role, by the tokens' positions in the example."""

    role: str
    positions: range


def turns(window: Example) -> tuple[Turn, ...]:
    """Content of an example, turn by turn, without template, system and BOS tokens."""
    return tuple(
        Turn(window.roles[run.start], run)
        for run in _runs(window.roles)
        if window.roles[run.start] in CONTENT_ROLES
    )


def content_text(window: Example) -> str:
    """Written text of an example, turns separated by a line break."""
    return "\n".join(joined(window, turn.positions).strip() for turn in turns(window)).strip()


def joined(window: Example, positions: range) -> str:
    """The text of consecutive tokens."""
    return "".join(window.tokens[positions.start : positions.stop])


def marked_runs(window: Example, turn: Turn) -> list[tuple[bool, range]]:
    """A turn's tokens in runs that are marked (the latent fires there) or not."""
    threshold, first = MARK_SHARE * window.peak, turn.positions.start
    values = window.activations[first : turn.positions.stop]
    marked = [value > threshold for value in values]
    return [
        (marked[run.start], range(first + run.start, first + run.stop)) for run in _runs(marked)
    ]


def _runs(values: Sequence[object]) -> list[range]:
    """The positions of each run of equal values."""
    if not values:
        return []
    # Most examples have one role and most turns have no marks, where counting is faster.
    if values.count(values[0]) == len(values):
        return [range(len(values))]
    starts = [0, *(at for at in range(1, len(values)) if values[at] != values[at - 1])]
    return [range(*ends) for ends in zip(starts, [*starts[1:], len(values)], strict=True)]


def strength(activation: float, scale: float) -> int:
    """Activation as an integer from 1 to 10 relative to `scale`; 0 only where it is 0."""
    if activation <= 0 or scale <= 0:
        return 0
    return max(1, min(10, -int(-10 * activation // scale)))


def scale_of(windows: Sequence[Example]) -> float:
    """Largest activation in any of the examples."""
    return max((window.peak for window in windows), default=0.0)


def in_order(windows: Sequence[Example]) -> tuple[Example, ...]:
    """Examples in prompt order: strongest, quantiles, hard negatives, the counterpart's texts."""
    kinds = ("top", "quantile", "negative", "other_model")

    def place(window: Example) -> tuple[int, int, float, tuple[str, ...]]:
        return kinds.index(window.kind), window.quantile or 0, -window.peak, window.tokens

    return tuple(sorted(windows, key=place))


OPEN_MARK, CLOSE_MARK = "<<", ">>"
STRONGEST_TOKENS = 4
"""Tokens whose strength is listed below a text."""
_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINERS = frozenset({"\u200c", "\u200d"})
"""Needed for Persian, Indic scripts and emoji; they do not reorder text."""
_MARK_LIKE = re.compile(r"<{2,}|>{2,}|^[<>]|[<>]$")
"""Also a single bracket at an edge, where it would look like part of a mark."""
_LETTERS = {"top": "t", "quantile": "q", "negative": "n", "other_model": "o"}


@dataclass(frozen=True)
class Frame:
    """A block of data between two lines with a token that the data does not contain."""

    token: str
    text: str


def escaped(text: str) -> str:
    r"""Text on one line: control, format and unassigned characters, surrogates and line breaks
    become escapes such as `\n` and `\u{202e}`, and the marks `<<` and `>>` lose their meaning.
    """
    # Printable text, which is most text, has no character to escape.
    printable = text.isprintable()
    shown = text if printable else "".join(_visible_character(character) for character in text)
    if "<" not in shown and ">" not in shown:
        return shown
    return _MARK_LIKE.sub(lambda found: _escape(found.group()), shown)


def frame(body: str, key: str | None = None) -> Frame:
    """Enclose `body` in lines with a token that it does not contain.

    The token is derived from `key`, or from the body itself. The author of a corpus text knows
    neither.
    """
    counter = 0
    source = body if key is None else escaped(key)
    while True:
        token = sha256_text(f"{counter}\n{source}")[:16]
        if token not in body:
            return Frame(token, f"==== {token} begins ====\n{body}\n==== {token} ends ====")
        counter += 1


def render_evidence(windows: Sequence[Example], scale: float, with_strengths: bool = True) -> str:
    """Examples of a latent with marks, and with strengths relative to `scale`."""
    counts: dict[str, int] = {}
    blocks = []
    for window in in_order(windows):
        letter = _LETTERS[window.kind]
        counts[letter] = counts.get(letter, 0) + 1
        blocks.append(_marked_window(f"{letter}{counts[letter]}", window, scale, with_strengths))
    return "\n".join(blocks)


def render_reviewed(reviewed: Sequence[tuple[str, Sequence[Example]]]) -> str:
    """Reviewed latents, each by its category's slug, with texts and their marks."""
    lines = []
    for number, (category, windows) in enumerate(reviewed, start=1):
        lines.append(f"[r{number}] reviewed: {escaped(category)}")
        for window in windows:
            lines += _marked_window("", window, 0.0, with_strengths=False).split("\n")[1:]
    return "\n".join(lines)


def render_examples(explanation: str, examples: Sequence[ShownExample]) -> str:
    """An explanation and the texts it is tested on, with the marks of each example only."""
    blocks = [_example(example) for example in examples]
    return "\n".join([f"explanation: {escaped(explanation)}", *blocks])


def render_facts(facts: LatentFacts) -> str:
    """How often the latent fires, in one sentence; nothing tells the models or the side."""
    if facts.density is None:
        return ""
    texts = "" if facts.n_documents is None else f", in {facts.n_documents} texts"
    return f" It fires on {facts.density:.2%} of all tokens{texts}."


OptionForm = Literal["bounded", "definition"]
"""How much of a category is shown: with its `exclude` line, or the definition alone."""


def render_options(options: Sequence[CategoryOption], form: OptionForm = "bounded") -> str:
    """The categories, one line each, in the given order."""
    return "\n".join(_option(option, form) for option in options)


def _option(option: CategoryOption, form: OptionForm) -> str:
    line = f"- {option.slug}: {escaped(option.definition or option.include_when or option.name)}"
    if form == "bounded" and option.exclude_when:
        line += f" Not: {escaped(option.exclude_when)}"
    return line


def _example(example: ShownExample) -> str:
    window, lines = example.window, [f"[{example.id}]"]
    for turn in turns(window):
        parts = [
            _marked(text) if marked else text
            for marked, text in _example_runs(window, turn.positions, example.marks)
        ]
        lines.append(f"  {turn.role}: {''.join(parts).strip()}")
    return "\n".join(lines)


def _example_runs(
    window: Example, positions: range, marks: frozenset[int]
) -> Iterator[tuple[bool, str]]:
    for marked, run in groupby(positions, key=marks.__contains__):
        yield marked, escaped("".join(window.tokens[position] for position in run))


def _marked_window(label: str, window: Example, scale: float, with_strengths: bool) -> str:
    lines, found = [f"[{label}]"], turns(window)
    for turn in found:
        parts = []
        for marked, run in marked_runs(window, turn):
            text = escaped(joined(window, run))
            parts.append(_marked(text) if marked else text)
        lines.append(f"  {turn.role}: {''.join(parts).strip()}")
    if with_strengths and window.peak > 0:
        fires = _strongest(window, found, scale)
        if fires:
            lines.append(f"  fires: {fires}")
    return "\n".join(lines)


def _marked(text: str) -> str:
    """Text between marks; leading spaces stay outside."""
    inside = text.lstrip(" ")
    return f"{text[: len(text) - len(inside)]}{OPEN_MARK}{inside}{CLOSE_MARK}"


def _strongest(window: Example, shown: Sequence[Turn], scale: float) -> str:
    firing = [
        position
        for turn in shown
        for position in turn.positions
        if window.activations[position] > 0
    ]
    firing.sort(key=lambda position: (-window.activations[position], position))
    return ", ".join(
        f'"{escaped(window.tokens[position].strip(" "))}" '
        f"{strength(window.activations[position], scale)}"
        for position in firing[:STRONGEST_TOKENS]
    )


def _visible_character(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character in _JOINERS or unicodedata.category(character) not in _INVISIBLE:
        return character
    return _escape(character)


def _escape(characters: str) -> str:
    return "".join(f"\\u{{{ord(character):x}}}" for character in characters)
