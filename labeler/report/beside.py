"""What stands beside the result: null runs, scores of the explanations, and control latents.

Frozen models only. Whoever stores such results reads them into these, the page shows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NullKind = Literal["seed", "permuted", "noise"]
"""`seed`: crosscoders of the same models with other seeds; `permuted`: sides dealt at random;
`noise`: a model against a noisy copy of itself, where latents are counted, not verdicts."""


@dataclass(frozen=True)
class NullChange:
    """One category under the null: what changes come out where nothing differs."""

    category: str
    low: float | None
    """2.5% quantile of the percentage change over the draws; None = undefined."""
    high: float | None
    """97.5% quantile, percent; None beside a `low` = infinite."""
    share_as_far: float | None
    """Share of the draws whose change lies at least as far from zero as the result's."""


@dataclass(frozen=True)
class NullRun:
    """One kind of null run of a comparison."""

    kind: NullKind
    title: str
    """What was drawn, in a few words."""
    n_draws: int
    n_called: int
    """Verdicts `up` or `down` over all draws and categories, every one of them false."""
    n_tested: int
    """Categories tested over all draws."""
    changes: tuple[NullChange, ...] = ()
    run_id: int | None = None


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
