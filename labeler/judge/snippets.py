"""The text around the place where a latent fires: content only, word by word as it was written."""

from __future__ import annotations

import re
from dataclasses import dataclass

from labeler.judge.base import EvidenceWindow
from labeler.judge.windows import Turn, joined, turns

STRONG_SHARE = 0.5
"""A token fires strongly where its activation exceeds this share of the window's peak."""
CONTEXT_TOKENS = 12
"""Tokens of the same turn kept on each side of the strong ones."""
MIN_WORDS = 4
"""A turn shorter than this is read together with the other turns in the window."""
_WORD = re.compile(r"[^\W_]")


@dataclass(frozen=True)
class Snippet:
    """A stretch of text on which a latent fires."""

    text: str
    """Verbatim content."""
    role: str
    """Who wrote the place where it fires most."""
    peak: float


def snippet(window: EvidenceWindow) -> Snippet | None:
    """The text from the first to the last strong token with some context.

    None where no content token fires, or the text holds no letter or digit.
    """
    turn = peak_turn(window)
    if turn is None:
        return None
    strong = strong_positions(window, turn)
    first = max(turn.positions[0], strong[0] - CONTEXT_TOKENS)
    last = min(turn.positions[-1], strong[-1] + CONTEXT_TOKENS)
    text = joined(window, range(_word_start(window, turn, first), last + 1)).strip()
    if len(text.split()) < MIN_WORDS and len(text) < 4 * MIN_WORDS:
        text = _neighbourhood(window, turn)
    return Snippet(text, turn.role, window.peak) if _WORD.search(text) else None


def peak_turn(window: EvidenceWindow) -> Turn | None:
    """The turn with the strongest content token; None where none fires."""
    best = max(turns(window), key=lambda turn: _peak(window, turn), default=None)
    return best if best is not None and _peak(window, best) > 0 else None


def strong_positions(window: EvidenceWindow, turn: Turn) -> list[int]:
    """Positions in a turn whose activation exceeds the strong share of its peak."""
    threshold = STRONG_SHARE * _peak(window, turn)
    return [position for position in turn.positions if window.activations[position] >= threshold]


def _peak(window: EvidenceWindow, turn: Turn) -> float:
    return max(window.activations[position] for position in turn.positions)


def _word_start(window: EvidenceWindow, turn: Turn, position: int) -> int:
    """Move left to where the word begins, by at most four tokens."""
    for candidate in range(position, max(turn.positions[0], position - 4) - 1, -1):
        if candidate == turn.positions[0] or not window.tokens[candidate][:1].isalnum():
            return candidate
    return position


def _neighbourhood(window: EvidenceWindow, turn: Turn) -> str:
    """The turn with the one before and the one after it."""
    all_turns = turns(window)
    at = all_turns.index(turn)
    near = all_turns[max(0, at - 1) : at + 2]
    return "\n".join(joined(window, each.positions).strip() for each in near).strip()
