"""How long a prompt may be, and which texts are shown where not all of them fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from labeler.judge.base import Example

FIRING_KINDS = ("top", "quantile")
LONGEST_TEXT = 64
"""Most tokens of one text, in tokens of the subject model."""
_PIECE = re.compile(r"[A-Za-z]+|[0-9]|[^\x00-\x7f]+|[^\w\s]+|_|\n+")
_LETTERS_OF_A_TOKEN = 7


@dataclass(frozen=True)
class PromptLimits:
    """Most tokens of a prompt, by `estimated_tokens`."""

    explain: int = 2500
    categorize: int = 1500


def context_problem(limits: PromptLimits, max_tokens: int, context: int) -> str | None:
    """One line where the longest prompt and answer do not fit in a context of so many tokens."""
    key = "explain" if limits.explain >= limits.categorize else "categorize"
    longest = max(limits.explain, limits.categorize)
    needed = longest + max_tokens
    if needed <= context:
        return None
    return (
        f"prompts of up to {longest} tokens (judge.{key}_tokens) and answers of up to {max_tokens} "
        f"(judge.max_tokens) need {needed}, the served context has {context}; raise "
        f"judge.server.max_model_len, or lower judge.{key}_tokens"
    )


def estimated_tokens(text: str) -> int:
    """Tokens of a text for a usual tokenizer: no model is asked, so every machine counts alike.

    A word has one token per seven letters, a digit one, two other ASCII signs one, two bytes of
    other scripts one.
    """
    return sum(map(_tokens_of, _PIECE.findall(text)))


def _tokens_of(piece: str) -> int:
    if not piece[0].isascii():
        return (len(piece.encode("utf-8", "replace")) + 1) // 2
    if piece[0].isalpha():
        return 1 + (len(piece) - 1) // _LETTERS_OF_A_TOKEN
    return 1 if piece[0] == "\n" else (len(piece) + 1) // 2


def by_turns(windows: Sequence[Example]) -> list[Example]:
    """A strongest text, a weaker one, a silent one, and so on, each kind in its order.

    Silent are the negatives and the texts of the other model's latent, in turns as well.
    """
    top, weaker, negative, other = (
        [window for window in windows if window.kind == kind]
        for kind in ("top", "quantile", "negative", "other_model")
    )
    return _in_turns(top, weaker, _in_turns(negative, other))


def _in_turns(*groups: Sequence[Example]) -> list[Example]:
    return [window for window in chain(*zip_longest(*groups)) if window is not None]


def strongest_first(windows: Sequence[Example]) -> list[Example]:
    """The texts on which the latent fires, the strongest first."""
    firing = [window for window in windows if window.kind in FIRING_KINDS]
    return sorted(firing, key=lambda window: (-window.peak, window.tokens))


def fitting(
    windows: Iterable[Example], length_of: Callable[[Example], int], room: int
) -> list[Example]:
    """The first texts whose lengths together are at most `room`; at least the very first."""
    chosen: list[Example] = []
    for window in windows:
        room -= length_of(window)
        if chosen and room < 0:
            break
        chosen.append(window)
    return chosen


def cut(window: Example, longest: int = LONGEST_TEXT) -> Example:
    """At most `longest` tokens of a text, those around its strongest token."""
    if len(window.tokens) <= longest:
        return window
    strongest = window.activations.index(window.peak)
    first = max(0, min(strongest - longest // 2, len(window.tokens) - longest))
    part = slice(first, first + longest)
    return Example(
        window.kind,
        window.split,
        window.tokens[part],
        window.roles[part],
        window.activations[part],
        window.quantile,
    )
