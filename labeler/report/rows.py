"""Rows of the change table, and the sides that they compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from crosscoder.settings import SideName
from taxonomy.counts import CategoryChange

Direction = Literal["up", "down"]
SIGNIFICANT = frozenset({"up", "down"})


@dataclass(frozen=True, kw_only=True)
class CategoryRow(CategoryChange):
    """One category of the change table: its change, its title, and how the latents were counted."""

    name: str
    """Title of the category."""
    counting: str
    weighting: str
    denominator: str

    @property
    def way(self) -> tuple[str, str, str]:
        """How the latents were counted."""
        return self.counting, self.weighting, self.denominator

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
