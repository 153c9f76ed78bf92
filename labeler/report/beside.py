"""What stands beside the result: null runs, scores of the explanations, and control latents.

Frozen models only. Whoever stores such results reads them into these, the page shows them.
"""

from __future__ import annotations

from dataclasses import dataclass

from labeler.store.null_results import NullRun


@dataclass(frozen=True)
class ScoreRow:
    """How well explanations of one side predict text they never saw, own against shuffled.

    Means over latents of the balanced accuracy, in [0, 1]; the interval is that of the difference.
    """

    side: str
    """target, reference, or both."""
    method: str
    """detection or fuzzing."""
    n_latents: int
    own: float | None
    shuffled: float | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    n_asked: int
    n_parsed: int


@dataclass(frozen=True)
class ControlRate:
    """How often latents that are not specific get a category: its base rate."""

    category: str
    count: int
    total: int


@dataclass(frozen=True)
class Beside:
    """Everything that stands beside one comparison's result; empty where nothing was stored."""

    null_runs: tuple[NullRun, ...] = ()
    scores: tuple[ScoreRow, ...] = ()
    controls: tuple[ControlRate, ...] = ()
