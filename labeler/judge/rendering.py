"""Renders evidence for a prompt: turns with marked tokens, in a frame that text cannot close."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

from crosscoder.files import sha256_text
from labeler.judge.base import (
    CONTENT_ROLES,
    CategoryOption,
    Example,
    LatentFacts,
    LatentRecord,
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
STRONGEST_TOKENS = 8
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


def render_evidence(subject: LatentRecord) -> str:
    """All examples of a latent with marks and strengths, relative to its strongest token."""
    scale = scale_of(subject.windows)
    counts: dict[str, int] = {}
    blocks = []
    for window in in_order(subject.windows):
        letter = _LETTERS[window.kind]
        counts[letter] = counts.get(letter, 0) + 1
        blocks.append(_marked_window(f"{letter}{counts[letter]}", window, scale))
    return "\n".join(blocks)


def render_examples(explanation: str, examples: Sequence[ShownExample]) -> str:
    """An explanation and the texts it is tested on, with the marks of each example only."""
    blocks = [_example(example) for example in examples]
    return "\n".join([f"explanation: {escaped(explanation)}", *blocks])


def render_facts(facts: LatentFacts) -> str:
    """The crosscoder's statistics, without the models' names and the side of the comparison."""
    known = [
        ("nu error (0 = the other model lacks it, 1 = both have it)", facts.nu_error),
        ("nu reconstruction (0 = the other model lacks it, 1 = both have it)",
         facts.nu_reconstruction),
        ("share of tokens on which it fires", facts.density),
        ("texts in which it fires", facts.n_documents),
    ]  # fmt: skip
    lines = [] if facts.delta_norm is None else [_norm_line(facts.delta_norm)]
    lines += [f"- {name}: {value:.3g}" for name, value in known if value is not None]
    return "\n".join(["What the dictionary says of the latent:", *lines]) if lines else ""


@lru_cache(maxsize=64)
def render_options(options: tuple[CategoryOption, ...]) -> str:
    """The categories, one block each, in the given order; those of a batch are the same."""
    return "\n".join(_option(option) for option in options)


def _option(option: CategoryOption) -> str:
    under = f" (under {option.parent})" if option.parent else ""
    lines = [f"- {option.slug}{under}: {escaped(option.description)}"]
    if option.include_when:
        lines.append(f"  include: {escaped(option.include_when)}")
    if option.exclude_when:
        lines.append(f"  exclude: {escaped(option.exclude_when)}")
    return "\n".join(lines)


def _norm_line(delta_norm: float) -> str:
    """Each model's share of the decoder norm, which scales what the latent writes.

    delta_norm = ((t - r) / max(t, r) + 1) / 2 for decoder norms t and r (arXiv 2504.02922), hence
    r / t = 2 - 2 delta_norm where t is the larger one, and t / r = 2 delta_norm where r is.
    """
    own, other = (1.0, 2 - 2 * delta_norm) if delta_norm >= 0.5 else (2 * delta_norm, 1.0)
    share = own / (own + other)
    return (
        f"- share of its decoder norm, which scales what it does at every token: {share:.0%} in "
        f"the model at hand, {1 - share:.0%} in the other model"
    )


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


def _marked_window(label: str, window: Example, scale: float) -> str:
    lines, found = [f"[{label}]"], turns(window)
    for turn in found:
        parts = []
        for marked, run in marked_runs(window, turn):
            text = escaped(joined(window, run))
            parts.append(_marked(text) if marked else text)
        lines.append(f"  {turn.role}: {''.join(parts).strip()}")
    if window.peak > 0:
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
