"""From counts to statements: by how much a category's share changed, and how sure that is.

Everything here is a pure function of counts. A share is latents of the category / latents of the
side; the change is 100 * (target share / reference share - 1) percent. The intervals describe
redraws of latents from the same two crosscoders: neither the seeds of the crosscoders, nor the
isolation thresholds, nor the errors of the judge are in them (`combining`, `sweep` and
`correction` speak of those).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from taxonomy.boschloo import boschloo_p
from taxonomy.errors import InputError
from taxonomy.exact import (
    fisher_p,
    least_attainable_p,
    minimum_detectable_count,
)
from taxonomy.intervals import (
    Interval,
    Side,
    newcombe_interval,
    ratio_interval,
    wilson_interval,
)
from taxonomy.significance import ALPHA, ExactTest, Verdict, adjust_by_level, verdict_of

Situation = Literal[
    "counted",
    "no latents on a side",
    "on neither side",
    "only on the target side",
    "only on the reference side",
    "every latent of a side",
]
"""Where the counts lie: all but the first are named, since formulas break down there."""

_EXACT_TESTS: Mapping[ExactTest, Callable[[Side, Side], float]] = {
    "fisher": fisher_p,
    "boschloo": boschloo_p,
}


@dataclass(frozen=True)
class CategoryCounts:
    """How many latents of each side a category has; a total is the side's denominator."""

    category: str
    level: int
    parent: str | None
    target_count: int
    target_total: int
    reference_count: int
    reference_total: int

    @property
    def is_empty(self) -> bool:
        """Whether neither side has a latent of the category."""
        return self.target_count + self.reference_count == 0

    @property
    def target(self) -> Side:
        """The target side; InputError where its count is no part of its total."""
        return Side(self.target_count, self.target_total)

    @property
    def reference(self) -> Side:
        """The reference side; InputError where its count is no part of its total."""
        return Side(self.reference_count, self.reference_total)


@dataclass(frozen=True)
class CategoryChange(CategoryCounts):
    """Counts and everything that follows from them.

    Shares and their Wilson bounds lie in [0, 1] and are None where the total is 0. The percentage
    change is None where the reference count is 0, its upper bound None where it is infinite.
    `difference_points` is target minus reference share in percentage points. An effective number
    is that of equally weighted latents behind the share: the total, where nothing is weighted.
    `detectable_rise` and `detectable_fall` are the smallest changes, in percent, from this
    reference count that Fisher's p finds at this size; None where no change could be found.
    """

    situation: Situation
    test: str
    target_effective: float
    reference_effective: float

    target_share: float | None
    target_share_low: float | None
    target_share_high: float | None
    reference_share: float | None
    reference_share_low: float | None
    reference_share_high: float | None
    percent_change: float | None
    ci_low: float | None
    ci_high: float | None
    difference_points: float | None
    difference_points_low: float | None
    difference_points_high: float | None
    p_value: float
    least_attainable_p: float
    q_value: float
    verdict: Verdict
    printed_change: str
    detectable_rise: float | None
    detectable_fall: float | None


@dataclass(frozen=True)
class TestedCategory:
    """A category with the sides its intervals come from, and the p-value of its test.

    The sides equal the counts, or are effective ones where latents have weights.
    """

    counts: CategoryCounts
    target: Side
    reference: Side
    p_value: float
    least_p: float
    """Smallest p that any table with the margins of the counts could reach."""
    test: str
    interval_alpha: float
    is_searched: bool = True
    """Whether the smallest detectable changes are searched for, which takes the most time."""


def change_statistics(
    counts: Iterable[CategoryCounts],
    alpha: float = ALPHA,
    test: ExactTest = "fisher",
    *,
    detectable: bool = True,
) -> list[CategoryChange]:
    """Return the statistics of every category, in the order given.

    A family of the Benjamini-Hochberg adjustment is one level; categories that no latent of either
    side has are no test and stay outside (their p and q are 1). Raises InputError for a count that
    exceeds its total and for a category that occurs twice. `detectable` = False leaves out the
    search for the smallest detectable changes.
    """
    return adjusted([_tested_alone(row, alpha, test, detectable) for row in counts], alpha)


@lru_cache(maxsize=4096)
def _tested_alone(
    row: CategoryCounts, alpha: float, test: ExactTest, detectable: bool
) -> CategoryChange:
    """The statistics of one category; kept, since a table is counted again after each decision."""
    p_of = _EXACT_TESTS[test]
    return statistics_of(
        TestedCategory(
            counts=row,
            target=row.target,
            reference=row.reference,
            p_value=p_of(row.target, row.reference),
            least_p=least_attainable_p(row.target, row.reference, p_of),
            test=test,
            interval_alpha=alpha,
            is_searched=detectable,
        ),
        alpha,
    )


def adjusted(changes: Sequence[CategoryChange], alpha: float) -> list[CategoryChange]:
    """The rows of one table with their q-values and verdicts; the rest depends on a row alone."""
    _refuse_duplicates(changes)
    q_values = adjust_by_level(
        [row.level for row in changes],
        [None if row.is_empty else row.p_value for row in changes],
    )
    return [
        replace(row, q_value=q_value, verdict=_verdict(row, q_value, alpha))
        for row, q_value in zip(changes, q_values, strict=True)
    ]


def _verdict(row: CategoryChange, q_value: float, alpha: float) -> Verdict:
    rises = (row.target_share or 0.0) > (row.reference_share or 0.0)
    return verdict_of(rises, q_value, row.least_attainable_p, alpha)


def situation_of(counts: CategoryCounts) -> Situation:
    """Name what the counts allow, before any formula sees them."""
    target, reference = counts.target, counts.reference
    if not target.total or not reference.total:
        return "no latents on a side"
    if not target.count and not reference.count:
        return "on neither side"
    if not reference.count:
        return "only on the target side"
    if not target.count:
        return "only on the reference side"
    return "every latent of a side" if target.is_full or reference.is_full else "counted"


def percent_change(target: Side, reference: Side) -> float | None:
    """Return 100 * (target share / reference share - 1); None where that is undefined."""
    if target.total == 0 or reference.count == 0:
        return None
    ratio = (target.count * reference.total) / (target.total * reference.count)
    return 100.0 * (ratio - 1.0)


def print_change(target: Side, reference: Side) -> str:
    """Return the change as people read it: `+32.8%`, `new`, or nothing where nothing can be said.

    `new` means that only the target side has such latents.
    """
    change = percent_change(target, reference)
    if change is not None:
        return f"{round(change, 1) + 0.0:+.1f}%"
    return "new" if target.count > 0 and reference.total > 0 else ""


def statistics_of(entry: TestedCategory, alpha: float) -> CategoryChange:
    """Every statistic of one category as if it were alone: `adjusted` sees the whole table."""
    row, target, reference = entry.counts, entry.target, entry.reference
    target_interval = wilson_interval(target, entry.interval_alpha)
    reference_interval = wilson_interval(reference, entry.interval_alpha)
    ratio = _in_percent_change(ratio_interval(target, reference, entry.interval_alpha))
    difference = newcombe_interval(target, reference, entry.interval_alpha)
    rise, fall = _detectable(row, alpha) if entry.is_searched else (None, None)
    return CategoryChange(
        category=row.category,
        level=row.level,
        parent=row.parent,
        target_count=row.target_count,
        target_total=row.target_total,
        reference_count=row.reference_count,
        reference_total=row.reference_total,
        situation=situation_of(row),
        test=entry.test,
        target_effective=float(target.total),
        reference_effective=float(reference.total),
        target_share=_share(target),
        target_share_low=_low(target_interval),
        target_share_high=_high(target_interval),
        reference_share=_share(reference),
        reference_share_low=_low(reference_interval),
        reference_share_high=_high(reference_interval),
        percent_change=percent_change(target, reference),
        ci_low=_low(ratio),
        ci_high=_high(ratio),
        difference_points=(
            None if difference is None else 100.0 * (target.share - reference.share)
        ),
        difference_points_low=_low(_scaled(difference, 100.0)),
        difference_points_high=_high(_scaled(difference, 100.0)),
        p_value=entry.p_value,
        least_attainable_p=entry.least_p,
        q_value=entry.p_value,
        verdict="no evidence",
        printed_change=print_change(target, reference),
        detectable_rise=rise,
        detectable_fall=fall,
    )


def _detectable(row: CategoryCounts, alpha: float) -> tuple[float | None, float | None]:
    """Smallest rise and fall, in percent, that Fisher's p finds from this reference count."""
    if row.reference_count == 0:
        return None, None
    rise = minimum_detectable_count(row.reference, row.target_total, alpha=alpha, direction="up")
    fall = minimum_detectable_count(row.reference, row.target_total, alpha=alpha, direction="down")
    return (
        None if rise is None else percent_change(Side(rise, row.target_total), row.reference),
        None if fall is None else percent_change(Side(fall, row.target_total), row.reference),
    )


def _refuse_duplicates(rows: Sequence[CategoryCounts]) -> None:
    seen: set[str] = set()
    for row in rows:
        if row.category in seen:
            raise InputError(f"category {row.category!r} is counted twice; keep one row")
        seen.add(row.category)


def _share(side: Side) -> float | None:
    return side.share if side.total else None


def _scaled(interval: Interval | None, factor: float) -> Interval | None:
    return None if interval is None else Interval(interval.low * factor, interval.high * factor)


def _in_percent_change(ratio: Interval | None) -> Interval | None:
    if ratio is None:
        return None
    return Interval(100.0 * (ratio.low - 1.0), 100.0 * (ratio.high - 1.0))


def _low(interval: Interval | None) -> float | None:
    return None if interval is None else interval.low


def _high(interval: Interval | None) -> float | None:
    return None if interval is None or math.isinf(interval.high) else interval.high
