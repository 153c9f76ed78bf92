"""Rows of the change table, and the sides that they compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Direction = Literal["up", "down"]
SideName = Literal["target", "reference"]
SIDES: tuple[SideName, SideName] = ("target", "reference")
SIGNIFICANT = frozenset({"up", "down"})


@dataclass(frozen=True)
class CategoryRow:
    """One category of the change table; the same values as a row of category_change_statistic."""

    category: str
    name: str
    """Title of the category."""
    parent: str | None
    level: int
    """1 = group, 2 = category below a group."""
    counting: str
    weighting: str
    denominator: str
    target_count: int
    target_total: int
    reference_count: int
    reference_total: int
    target_share: float | None
    target_share_low: float | None
    target_share_high: float | None
    reference_share: float | None
    reference_share_low: float | None
    reference_share_high: float | None
    percent_change: float | None
    """None where no latent of the reference side has the category."""
    ci_low: float | None
    """Percent."""
    ci_high: float | None
    """Percent; None beside a `ci_low` = infinite."""
    difference_points: float | None
    difference_points_low: float | None
    difference_points_high: float | None
    p_value: float | None
    q_value: float | None
    verdict: str
    """up, down, too few to say, or no evidence."""
    printed_change: str
    situation: str | None = None
    """Where the counts lie; None in rows of older versions."""
    test: str | None = None
    """fisher, boschloo or score."""
    target_effective: float | None = None
    reference_effective: float | None = None
    detectable_rise: float | None = None
    """Smallest rise in percent that this size could have shown; None = none could."""
    detectable_fall: float | None = None

    @property
    def is_empty(self) -> bool:
        """Whether neither side has a latent of this category."""
        return self.target_count == 0 and self.reference_count == 0

    @property
    def shown_change(self) -> str:
        """The change as a table prints it: n/a where there is nothing to compare."""
        return self.printed_change or "n/a"

    @property
    def shown_verdict(self) -> str:
        """The verdict as a table prints it; the reason, where there can be none."""
        return "no latents on either side" if self.is_empty else self.verdict

    @property
    def is_new(self) -> bool:
        """Whether only the target side has latents of this category."""
        return self.reference_count == 0 and self.target_count > 0

    @property
    def is_significant(self) -> bool:
        """Whether the change is distinguishable from zero."""
        return self.verdict in SIGNIFICANT

    @property
    def sign(self) -> int:
        """Sign of the point estimate: `new` is 1, 0/0 and no change are 0."""
        if self.is_new:
            return 1
        return 0 if self.percent_change is None else int(np.sign(self.percent_change))


@dataclass(frozen=True)
class PlantedCheck:
    """A direction that is known beforehand, and what the study found."""

    direction: Direction
    row: CategoryRow

    @property
    def has_sign(self) -> bool:
        """Whether the point estimate has the planted sign; `new` is up, 0/0 a miss."""
        return self.row.sign == (1 if self.direction == "up" else -1)


@dataclass(frozen=True)
class Coverage:
    """How many latents of one side are labelled, and how."""

    side: SideName
    isolated: int
    labelled: int
    assigned: int
    none: int
    uninterpretable: int
    error: int
    too_long: int
    refused: int
    unlabelled: int
    reviewed: int
