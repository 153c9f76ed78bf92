"""Rows of the change table, the latent sets that they compare, and judge against reviewers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sqlalchemy import text
from sqlalchemy.orm import Session

from crosscoder.config import SIDES, SideName
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


_ROWS = text(
    "SELECT side, judge_category, human_category, n, n_blind FROM v_judge_vs_human"
    " WHERE comparison = :comparison"
)
MOST_DISAGREEMENTS = 8


@dataclass(frozen=True)
class SideAgreement:
    """How often judge and reviewers chose the same on one side."""

    side: str
    reviewed: int
    agreed: int
    blind: int
    """Reviewed without seeing the judge's label."""
    blind_agreed: int
    low: float | None
    """95% Wilson interval of the agreement among the blind."""
    high: float | None


@dataclass(frozen=True)
class Disagreement:
    """What the judge said, what the reviewers made of it, and how often."""

    judge: str
    human: str
    n: int


@dataclass(frozen=True)
class JudgeVersusHuman:
    """Both sides, and the most frequent disagreements of both together."""

    sides: tuple[SideAgreement, ...] = ()
    disagreements: tuple[Disagreement, ...] = ()


def read_agreement(session: Session, comparison: str) -> JudgeVersusHuman:
    """The reviewed latents of a comparison; empty where nothing is reviewed."""
    rows = session.execute(_ROWS, {"comparison": comparison}).all()
    if not rows:
        return JudgeVersusHuman()
    pairs: Counter[tuple[str, str]] = Counter()
    for row in rows:
        if row.judge_category != row.human_category:
            pairs[row.judge_category, row.human_category] += row.n
    return JudgeVersusHuman(
        sides=tuple(_side(side, [row for row in rows if row.side == side]) for side in SIDES),
        disagreements=tuple(
            Disagreement(judge, human, n)
            for (judge, human), n in sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
        )[:MOST_DISAGREEMENTS],
    )


def _side(side: str, rows: Sequence[Any]) -> SideAgreement:
    from taxonomy.counts import Side
    from taxonomy.intervals import wilson_interval

    def total(name: str, agreed_only: bool) -> int:
        return sum(
            int(getattr(row, name))
            for row in rows
            if not agreed_only or row.judge_category == row.human_category
        )

    blind, blind_agreed = total("n_blind", False), total("n_blind", True)
    interval = wilson_interval(Side(blind_agreed, blind))
    return SideAgreement(
        side=side,
        reviewed=total("n", False),
        agreed=total("n", True),
        blind=blind,
        blind_agreed=blind_agreed,
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
    )
