"""Windows of evidence as text: turns, marked runs, what a reader sees of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from labeler.judge.base import CONTENT_ROLES, EvidenceWindow

MARK_SHARE = 0.3
"""A token is marked where its activation exceeds this share of the window's peak."""


@dataclass(frozen=True)
class Turn:
    """A run of content tokens of one role, by the tokens' positions in the window."""

    role: str
    positions: tuple[int, ...]


def turns(window: EvidenceWindow) -> tuple[Turn, ...]:
    """Content of a window, turn by turn; template, system and BOS tokens are left out."""
    roles, start, found = window.roles, 0, []
    for position, role in enumerate(roles):
        if role != roles[start]:
            found.append(Turn(roles[start], tuple(range(start, position))))
            start = position
    if roles:
        found.append(Turn(roles[start], tuple(range(start, len(roles)))))
    return tuple(turn for turn in found if turn.role in CONTENT_ROLES)


def content_text(window: EvidenceWindow) -> str:
    """Everything that somebody wrote in a window, turns separated by a line break."""
    return "\n".join(joined(window, turn.positions).strip() for turn in turns(window)).strip()


def joined(window: EvidenceWindow, positions: Iterable[int]) -> str:
    """The text of some tokens."""
    return "".join(window.tokens[position] for position in positions)


def marked_runs(window: EvidenceWindow, turn: Turn) -> list[tuple[bool, tuple[int, ...]]]:
    """A turn's tokens in runs that are marked (the latent fires there) or not."""
    threshold = MARK_SHARE * window.peak
    activations, positions = window.activations, turn.positions
    runs: list[tuple[bool, tuple[int, ...]]] = []
    start, marked = 0, activations[positions[0]] > threshold
    for place, position in enumerate(positions):
        if (activations[position] > threshold) != marked:
            runs.append((marked, positions[start:place]))
            start, marked = place, not marked
    return [*runs, (marked, positions[start:])]


def strength(activation: float, scale: float) -> int:
    """Activation as an integer from 1 to 10 relative to `scale`; 0 only where it is 0."""
    if activation <= 0 or scale <= 0:
        return 0
    return max(1, min(10, -int(-10 * activation // scale)))


def scale_of(windows: Sequence[EvidenceWindow]) -> float:
    """Largest activation in any of the windows."""
    return max((window.peak for window in windows), default=0.0)


def in_order(windows: Sequence[EvidenceWindow]) -> tuple[EvidenceWindow, ...]:
    """Windows in the order in which a judge reads them: strongest, quantiles, negatives, twins."""
    kinds = ("top", "quantile", "negative", "other_model")

    def place(window: EvidenceWindow) -> tuple[int, int, float, tuple[str, ...]]:
        return kinds.index(window.kind), window.quantile or 0, -window.peak, window.tokens

    return tuple(sorted(windows, key=place))
