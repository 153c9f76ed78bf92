"""From counts to statements: by how much a category's share changed, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.stats import norm
from scipy.stats import t as student_t

from taxonomy.counts import (
    ALPHA,
    SEEDS,
    CategoryChange,
    CategoryCounts,
    ExactTest,
    Interval,
    Side,
    Situation,
    Verdict,
    bounds,
    verdict_of,
)
from taxonomy.errors import InputError
from taxonomy.intervals import (
    adjust_by_level,
    boschloo_p,
    fisher_p,
    least_attainable_p,
    minimum_detectable_count,
    newcombe_interval,
    ratio_interval,
    score_p,
    wilson_interval,
)
from taxonomy.over_seeds import SeedError, SeedSpread, log_ratio, log_ratio_of, pooled, seed_spreads

_EXACT_TESTS: Mapping[ExactTest, Callable[[Side, Side], float]] = {
    "fisher": fisher_p,
    "boschloo": boschloo_p,
}


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
    return adjusted([_test_category(row, alpha, test, detectable) for row in counts], alpha)


@lru_cache(maxsize=4096)
def _test_category(
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
    target, reference = entry.target, entry.reference
    target_low, target_high = bounds(wilson_interval(target, entry.interval_alpha))
    reference_low, reference_high = bounds(wilson_interval(reference, entry.interval_alpha))
    ratio = ratio_interval(target, reference, entry.interval_alpha)
    ci_low, ci_high = bounds(ratio and ratio.percent_change())
    difference = newcombe_interval(target, reference, entry.interval_alpha)
    points_low, points_high = bounds(
        difference and Interval(100.0 * difference.low, 100.0 * difference.high)
    )
    rise, fall = _detectable(entry.counts, alpha) if entry.is_searched else (None, None)
    return CategoryChange(
        **vars(entry.counts),
        situation=situation_of(entry.counts),
        test=entry.test,
        target_effective=float(target.total),
        reference_effective=float(reference.total),
        target_share=target.share if target.total else None,
        target_share_low=target_low,
        target_share_high=target_high,
        reference_share=reference.share if reference.total else None,
        reference_share_low=reference_low,
        reference_share_high=reference_high,
        percent_change=percent_change(target, reference),
        ci_low=ci_low,
        ci_high=ci_high,
        difference_points=100.0 * (target.share - reference.share) if difference else None,
        difference_points_low=points_low,
        difference_points_high=points_high,
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


def seed_change_statistics(
    tables: Sequence[Sequence[CategoryCounts]], alpha: float = ALPHA
) -> list[CategoryChange]:
    """Return the statistics of every category over seeds whose sides were not drawn.

    Shares are those of the seeds' counts added up. Their intervals take as many latents as a mean
    seed has, because other seeds are no new models. The change is tested and bounded by its log
    ratio: variance within a seed (Walter 1975), mean over the seeds, plus that between seeds
    (`SeedError`). Too few to say is a category that is so in every seed.
    """
    rows = zip(pooled(tables), seed_spreads(tables), zip(*tables, strict=True), strict=True)
    return adjusted([_test_seeds(row, spread, own, alpha) for row, spread, own in rows], alpha)


def _test_seeds(
    row: CategoryCounts, spread: SeedSpread, own: Sequence[CategoryCounts], alpha: float
) -> CategoryChange:
    target, reference = (
        Side(side.count / spread.n_seeds, side.total / spread.n_seeds)
        for side in (row.target, row.reference)
    )
    known = [each for each in own if each.target_total and each.reference_total]
    within = [log_ratio_of(each.target, each.reference).variance for each in known]
    is_tested = bool(within) and not row.is_empty
    error = SeedError(float(np.mean(within)) if within else 0.0, spread.log_ratio, spread.n_seeds)
    value = log_ratio(row.target, row.reference)
    change = statistics_of(
        TestedCategory(
            counts=row,
            target=target,
            reference=reference,
            p_value=error.p_of(value) if is_tested else 1.0,
            least_p=min(least_attainable_p(each.target, each.reference) for each in own),
            test=SEEDS,
            interval_alpha=alpha,
            is_searched=False,
        ),
        alpha,
    )
    change = replace(change, over_seeds=spread.n_seeds, n_seeds_alike=spread.n_alike)
    if not is_tested:
        return change
    low, high = (100 * math.expm1(value + sign * error.reach(alpha)) for sign in (-1, 1))
    return replace(
        change,
        ci_low=low if row.target_count else -100.0,
        ci_high=high if row.reference_count else None,
    )


Weights = npt.NDArray[np.float64]


@dataclass(frozen=True)
class WeightedLatents:
    """The latents of one side's denominator: weights (n,), and the rows of each category."""

    weights: Weights
    members: Mapping[str, npt.NDArray[np.int64]]
    """Category -> indices into `weights`; a category without latents may be missing."""

    def __post_init__(self) -> None:
        if not np.isfinite(self.weights).all() or (self.weights < 0).any():
            raise InputError("the weight of a latent is a finite number of 0 or more")

    def rows_of(self, category: str) -> npt.NDArray[np.int64]:
        """Indices of a category's latents."""
        return self.members.get(category, np.empty(0, dtype=np.int64))

    def in_units(self, unit: float) -> WeightedLatents:
        """The same with every weight divided by `unit`."""
        return replace(self, weights=self.weights / unit)

    def side_of(self, category: str) -> Side:
        """Summed weights of the category and of the side."""
        total = float(self.weights.sum())
        return Side(min(total, float(self.weights[self.rows_of(category)].sum())), total)


def weighted_change_statistics(
    counts: Sequence[CategoryCounts],
    target: WeightedLatents,
    reference: WeightedLatents,
    alpha: float = ALPHA,
) -> list[CategoryChange]:
    """Return the statistics of every category's weighted shares, in the order given.

    `counts` are the unweighted counts of the same latents: they decide what is `too few to say`.
    p is that of the score test on effective numbers, so that it agrees with the interval.
    """
    return adjusted(
        [statistics_of(_test_weighted(row, target, reference, alpha), alpha) for row in counts],
        alpha,
    )


def _test_weighted(
    row: CategoryCounts, target: WeightedLatents, reference: WeightedLatents, alpha: float
) -> TestedCategory:
    sides = (
        effective_side(target.weights, target.rows_of(row.category)),
        effective_side(reference.weights, reference.rows_of(row.category)),
    )
    return TestedCategory(
        counts=row,
        target=sides[0],
        reference=sides[1],
        p_value=score_p(*sides, degrees_of_freedom=_freedom(*sides)),
        least_p=least_attainable_p(row.target, row.reference),
        test="score",
        interval_alpha=widened_alpha(alpha, *sides),
        is_searched=False,
    )


def _freedom(target: Side, reference: Side) -> float:
    return max(1.0, min(target.total, reference.total) - 1.0)


def widened_alpha(alpha: float, target: Side, reference: Side) -> float:
    """The level at which a normal quantile equals Student's t at `alpha`."""
    return 2.0 * float(norm.sf(student_t.isf(alpha / 2, _freedom(target, reference))))


def effective_side(weights: Weights, rows: npt.NDArray[np.int64]) -> Side:
    """The side of equally weighted latents with the same share and at least the same variance.

    The effective number is the smaller one of Kish's sum(w)^2 / sum(w^2), which holds where weight
    and category are independent, and of share * (1 - share) / linearised variance, which does not
    ask for that but cannot be trusted alone where few latents carry a category.
    """
    total = float(weights.sum())
    if total == 0:
        return Side(0, 0)
    share = min(1.0, float(weights[rows].sum()) / total)
    number = kish_number(weights)
    variance = _linearised_variance(weights, rows, share)
    if variance > 0 and 0 < share < 1:
        number = min(number, share * (1 - share) / variance)
    return Side(share * number, number) if len(rows) < len(weights) else Side(number, number)


def kish_number(weights: Weights) -> float:
    """Kish's effective number sum(w)^2 / sum(w^2) of latents; 0 where no latent has weight."""
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares else 0.0


def _linearised_variance(weights: Weights, rows: npt.NDArray[np.int64], share: float) -> float:
    """Variance of the ratio sum(w y) / sum(w) by linearisation (Cochran 1977, eq. 6.13)."""
    n_latents = len(weights)
    if n_latents < 2:
        return 0.0
    residuals = -share * weights
    residuals[rows] += weights[rows]
    return float((residuals**2).sum() / weights.sum() ** 2 * n_latents / (n_latents - 1))
