"""The text around the place where a latent fires: content only, word by word as it was written."""

from __future__ import annotations

import re
from dataclasses import dataclass

from labeler.judge.base import EvidenceWindow
from labeler.judge.windows import Turn, joined, turns

STRONG_SHARE = 0.5
"""A token fires strongly where its activation exceeds this share of the window's peak."""
MIN_WORDS = 4
"""Sentences shorter than this are read together with what stands next to them."""
_SENTENCE_END = re.compile(r"[.!?\u2026]+[\"')\]\u201d\u2019]*(?=\s)|[\u3002\uff01\uff1f]+|\n+")
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
    """The sentences of a turn from the first to the last strong token, as far as the window shows.

    A sentence is what the categories' prototypes are, so that like is compared with like. None
    where no content token fires, or the text holds no letter or digit.
    """
    turn = peak_turn(window)
    if turn is None:
        return None
    strong = strong_positions(window, turn)
    whole = joined(window, turn.positions)
    first = len(joined(window, range(turn.positions[0], strong[0])))
    last = len(joined(window, range(turn.positions[0], strong[-1] + 1)))
    first += len(window.tokens[strong[0]]) - len(window.tokens[strong[0]].lstrip())
    text = _sentences(whole, first, last)
    if _is_short(text):
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


def _sentences(text: str, first: int, last: int) -> str:
    """The sentences that hold the characters `first` to `last`, and the next ones if too short."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    bounds = sorted({0, *ends, len(text)})
    begin = max(bound for bound in bounds if bound <= min(first, len(text)))
    after = [bound for bound in bounds if bound >= last and bound > begin] or [len(text)]
    chosen = text[begin : after[0]].strip()
    for bound in after[1:]:
        if not _is_short(chosen):
            return chosen
        chosen = text[begin:bound].strip()
    if _is_short(chosen):
        begin = max((bound for bound in bounds if bound < begin), default=0)
        chosen = text[begin : after[-1]].strip()
    return chosen


def _is_short(text: str) -> bool:
    """Too few words; text without spaces counts by its characters."""
    return len(text.split()) < MIN_WORDS and len(text) < 4 * MIN_WORDS


def _neighbourhood(window: EvidenceWindow, turn: Turn) -> str:
    """The turn with the one before and the one after it."""
    all_turns = turns(window)
    at = all_turns.index(turn)
    near = all_turns[max(0, at - 1) : at + 2]
    return "\n".join(joined(window, each.positions).strip() for each in near).strip()
