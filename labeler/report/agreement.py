"""The judge in force against the reviewers, latent by latent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from crosscoder.settings import SIDES

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
    from taxonomy.intervals import Side, wilson_interval

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
