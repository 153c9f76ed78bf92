"""Change statistics from randomised sides: the same counts on sides that were drawn by chance.

Exact tests take latents for independent draws. They are none: latents of one category fire in the
same documents and change together, so exact tests reject true hypotheses far too often. Here the
null distribution of a count is that of the count itself on sides that mean nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from taxonomy.change import (
    TestedCategory,
    WeightedLatents,
    adjusted,
    effective_side,
    percent_change,
    statistics_of,
)
from taxonomy.counts import ALPHA, DOCUMENTS, CategoryChange, CategoryCounts, Side
from taxonomy.errors import InputError
from taxonomy.over_seeds import SeedError, SeedSpread, error_of_reach, log_ratio
from taxonomy.robustness import SweepPoint

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IndexMatrix = NDArray[np.int32]

_TIE = 1e-12
"""Two differences of shares closer than this are equal: both are ratios of small numbers."""


@dataclass(frozen=True)
class DrawnCounts:
    """Counts on the drawn sides: R draws of C categories, in the order of the table's rows.

    Where latents have weights, a count is a sum of weights.
    """

    target: FloatArray
    """(R, C)"""
    reference: FloatArray
    """(R, C)"""
    target_total: FloatArray
    """(R,) latents of the side in the denominator."""
    reference_total: FloatArray
    """(R,)"""
    n_members: FloatArray
    """(C,) latents of each category in the whole dictionary, as far as they are labelled."""
    stretch: FloatArray | None = None
    """(C,) factor of differences and log ratios, see `taxonomy.scrambled.stretched`; None = 1."""

    @property
    def n_draws(self) -> int:
        """R."""
        return len(self.target_total)

    @property
    def differences(self) -> FloatArray:
        """(R, C) target share minus reference share; 0 where a side has no latent."""
        target = _share(self.target, self.target_total)
        return self._stretched(target - _share(self.reference, self.reference_total))

    @property
    def log_ratios(self) -> FloatArray:
        """(R, C) logarithm of the ratio of the shares, see `log_ratio`."""
        target = np.log((self.target + 0.5) / (self.target_total + 0.5)[:, None])
        reference = np.log((self.reference + 0.5) / (self.reference_total + 0.5)[:, None])
        return self._stretched(target - reference)

    def _stretched(self, values: FloatArray) -> FloatArray:
        return values if self.stretch is None else values * self.stretch


def count_draws(
    target: IndexMatrix,
    reference: IndexMatrix,
    members: BoolArray,
    counted: BoolArray,
    weights: FloatArray | None = None,
) -> DrawnCounts:
    """Count the categories on drawn sides (R, n) and (R, m) of latent indices, -1 being none.

    `members` (F, C) says which latents a category has, `counted` (F,) which are in the
    denominator, `weights` (F,) what a latent counts: 1 unless given.
    """
    table = np.column_stack([members, counted]).astype(np.float64)
    if weights is not None:
        table *= weights[:, None]
    sums = [_side_matrix(side, len(table)) @ table for side in (target, reference)]
    return DrawnCounts(
        target=sums[0][:, :-1],
        reference=sums[1][:, :-1],
        target_total=sums[0][:, -1],
        reference_total=sums[1][:, -1],
        n_members=(table[:, :-1]).sum(axis=0),
    )


def _side_matrix(side: IndexMatrix, n_latents: int) -> sparse.csr_array:
    """(R, F) 1 where a draw has the latent on this side."""
    draw, place = np.nonzero(side >= 0)
    values = np.ones(len(draw))
    return sparse.csr_array((values, (draw, side[draw, place])), shape=(len(side), n_latents))


def pooled_draws(drawn: Sequence[DrawnCounts]) -> DrawnCounts:
    """The counts of several seeds added up, draw by draw: a draw swaps the same documents in all.

    InputError where they are not the same number of draws.
    """
    if len({each.n_draws for each in drawn}) != 1:
        raise InputError("the seeds' sides were drawn unequally often; isolate them again")
    return DrawnCounts(
        target=_added(each.target for each in drawn),
        reference=_added(each.reference for each in drawn),
        target_total=_added(each.target_total for each in drawn),
        reference_total=_added(each.reference_total for each in drawn),
        n_members=_added(each.n_members for each in drawn),
        stretch=_widest([each.stretch for each in drawn]),
    )


def _widest(stretches: Sequence[FloatArray | None]) -> FloatArray | None:
    """The largest factor of any seed: the sum of the seeds is stretched no less than each."""
    known = [each for each in stretches if each is not None]
    return np.max(known, axis=0) if known else None


def _added(arrays: Iterable[FloatArray]) -> FloatArray:
    total: FloatArray = np.sum(list(arrays), axis=0)
    return total


def randomised_change_statistics(
    counts: Sequence[CategoryCounts],
    drawn: DrawnCounts,
    alpha: float = ALPHA,
    spreads: Sequence[SeedSpread] | None = None,
) -> list[CategoryChange]:
    """Return the statistics of every category, in the order given.

    p is the share of draws, the table itself among them, whose difference of shares is at least as
    large as the observed one in either direction (Phipson and Smyth 2010). `family_p` compares it
    with the largest difference of any category of the table, each in units of its own spread
    (Westfall and Young 1993, single step): it bounds the chance of one false call in the table.
    Intervals are the observed value plus and minus the 1 - `alpha` quantile of the drawn absolute
    values, on the scale of `bounded_interval`: of the difference of shares, and of the log ratio
    for the percentage change. InputError where the draws are of other categories.

    With `spreads`, the counts and the draws are those of several seeds added up (`pooled`,
    `pooled_draws`). The draws then say what documents do to all seeds together, with whatever the
    seeds have in common; the variance between seeds is added to that of the reach (`SeedError`).
    p is the larger one of that of the draws and that of Student's t with this error, so that it
    keeps the level of the randomisation.
    """
    # Shares of one side take as many latents as a mean seed has: other seeds are no new models.
    n_seeds = spreads[0].n_seeds if spreads else 1
    measured = [
        _Measured(
            row.target,
            row.reference,
            Side(row.target.count / n_seeds, row.target.total / n_seeds),
            Side(row.reference.count / n_seeds, row.reference.total / n_seeds),
            are_counts=True,
        )
        for row in counts
    ]
    return _randomised(counts, measured, drawn, alpha, spreads)


def weighted_randomised_change_statistics(
    counts: Sequence[CategoryCounts],
    target: WeightedLatents,
    reference: WeightedLatents,
    drawn: DrawnCounts,
    alpha: float = ALPHA,
) -> list[CategoryChange]:
    """The same of weighted shares: `drawn` counts the weights of the latents on the drawn sides.

    Intervals of a single side's share are those of effective numbers. The half latent that log
    ratios add is half of weight 1, so weights whose mean on the sides is 1 suit.
    """
    measured = [
        _Measured(
            target.side_of(row.category),
            reference.side_of(row.category),
            effective_side(target.weights, target.rows_of(row.category)),
            effective_side(reference.weights, reference.rows_of(row.category)),
            are_counts=False,
        )
        for row in counts
    ]
    return _randomised(counts, measured, drawn, alpha)


def _randomised(
    counts: Sequence[CategoryCounts],
    measured: Sequence[_Measured],
    drawn: DrawnCounts,
    alpha: float,
    spreads: Sequence[SeedSpread] | None = None,
) -> list[CategoryChange]:
    if drawn.target.shape[1] != len(counts):
        raise InputError(
            f"draws of {drawn.target.shape[1]} categories for a table of {len(counts)}; "
            "count them for the same categories"
        )
    differences, ratios = np.abs(drawn.differences), np.abs(drawn.log_ratios)
    family = _family_p(measured, differences)
    changes = [
        _test(
            row,
            sides,
            _Null(
                differences[:, i],
                ratios[:, i],
                alpha,
                float(drawn.n_members[i]),
                None if spreads is None else spreads[i],
            ),
            alpha,
            family[i],
        )
        for i, (row, sides) in enumerate(zip(counts, measured, strict=True))
    ]
    return adjusted(changes, alpha)


def drawn_points(
    categories: Sequence[str],
    threshold: float,
    sides: DrawnCounts,
    drawn: DrawnCounts,
    alpha: float = ALPHA,
) -> list[SweepPoint]:
    """The change of every category where each side has so many latents, beside its draws.

    `sides` has one row, the sides as they are. The interval is that of
    `randomised_change_statistics`; `null_low` to `null_high` hold 1 - `alpha` of the draws.
    """
    ratios = drawn.log_ratios
    reach = np.quantile(np.abs(ratios), 1 - alpha, axis=0)
    nulls = 100 * np.expm1(np.quantile(ratios, [alpha / 2, 1 - alpha / 2], axis=0))
    points = []
    for i, category in enumerate(categories):
        target = Side(int(sides.target[0, i]), int(sides.target_total[0]))
        reference = Side(int(sides.reference[0, i]), int(sides.reference_total[0]))
        low, high = _percent_interval(target, reference, float(reach[i]), float(drawn.n_members[i]))
        points.append(
            SweepPoint(
                category=category,
                threshold=threshold,
                target_count=int(target.count),
                target_total=int(target.total),
                reference_count=int(reference.count),
                reference_total=int(reference.total),
                percent_change=percent_change(target, reference),
                ci_low=low,
                ci_high=high,
                null_low=float(nulls[0, i]),
                null_high=float(nulls[1, i]),
            )
        )
    return points


@dataclass(frozen=True)
class _Measured:
    """The sides of one category: counts or sums of weights, and effective numbers."""

    target: Side
    reference: Side
    effective_target: Side
    effective_reference: Side
    are_counts: bool
    """Whether every latent counts 1, so that the smallest detectable count is known."""

    @property
    def is_comparable(self) -> bool:
        """Whether both sides have a latent that counts."""
        return bool(self.target.total and self.reference.total)

    @property
    def difference(self) -> float:
        """Difference of shares; 0 where a side has no latent."""
        return self.target.share - self.reference.share if self.is_comparable else 0.0


@dataclass(frozen=True)
class _Null:
    """Absolute values (R,) of one category over the draws."""

    differences: FloatArray
    log_ratios: FloatArray
    alpha: float
    n_members: float
    """Latents of the category in the dictionary."""
    spread: SeedSpread | None = None
    """How the change varies between seeds; None for one seed."""

    def p_of(self, difference: float) -> float:
        """p of a difference of shares."""
        p = self.rank_p(difference)
        if self.spread is None:
            return p
        return max(p, self._error(self._drawn_reach, self.spread.difference).p_of(difference))

    def rank_p(self, difference: float) -> float:
        """Share of draws at least as large, the observed table among them."""
        return _rank_p(self.differences, abs(difference))

    @property
    def reach(self) -> float:
        """Largest difference of shares that is still no evidence."""
        if self.spread is None:
            return self._drawn_reach
        return self._error(self._drawn_reach, self.spread.difference).reach(self.alpha)

    @property
    def log_reach(self) -> float:
        """The same of the log ratio."""
        drawn = float(np.quantile(self.log_ratios, 1 - self.alpha))
        if self.spread is None:
            return drawn
        return self._error(drawn, self.spread.log_ratio).reach(self.alpha)

    @property
    def _drawn_reach(self) -> float:
        return float(np.quantile(self.differences, 1 - self.alpha))

    def _error(self, reach: float, between: float) -> SeedError:
        n_seeds = 1 if self.spread is None else self.spread.n_seeds
        return SeedError(error_of_reach(reach, self.alpha) ** 2, between, n_seeds)


def _rank_p(drawn: FloatArray, observed: float) -> float:
    return float((1 + (drawn >= observed - _TIE).sum()) / (1 + len(drawn)))


def _test(
    row: CategoryCounts, sides: _Measured, null: _Null, alpha: float, family_p: float
) -> CategoryChange:
    target, reference = sides.target, sides.reference
    if not sides.is_comparable or row.is_empty:
        p = least = 1.0
    else:
        p = null.p_of(sides.difference)
        least = null.rank_p(_largest_difference(target, reference))
    change = statistics_of(
        TestedCategory(
            counts=row,
            target=sides.effective_target,
            reference=sides.effective_reference,
            p_value=p,
            least_p=least,
            test=DOCUMENTS,
            interval_alpha=alpha,
            is_searched=False,
        ),
        alpha,
    )
    if change.difference_points is None:
        return change
    rise, fall = _detectable(target, reference, null.reach) if sides.are_counts else (None, None)
    low, high = _percent_interval(target, reference, null.log_reach, null.n_members)
    points_low, points_high = bounded_interval(
        sides.difference,
        null.reach,
        largest_difference(target, reference, null.n_members),
    )
    return replace(
        change,
        family_p=1.0 if row.is_empty else family_p if null.spread is None else max(p, family_p),
        over_seeds=None if null.spread is None else null.spread.n_seeds,
        n_seeds_alike=None if null.spread is None else null.spread.n_alike,
        ci_low=low,
        ci_high=high,
        difference_points_low=100 * points_low,
        difference_points_high=100 * points_high,
        detectable_rise=rise,
        detectable_fall=fall,
    )


def _largest_difference(target: Side, reference: Side) -> float:
    """Difference of shares with all the category's latents on one side, as far as they fit."""
    both = target.count + reference.count
    return max(min(1.0, both / target.total), min(1.0, both / reference.total))


def largest_difference(target: Side, reference: Side, n_members: float) -> float:
    """Largest difference of shares that the latents of a category in the dictionary allow."""
    total = min(target.total, reference.total)
    return min(1.0, n_members / total) if total else 0.0


def bounded_interval(value: float, reach: float, largest: float) -> tuple[float, float]:
    """Interval of a value that lies within plus and minus `largest`, from its reach at 0.

    A difference varies less the closer it comes to the largest one that the category's latents
    allow: most of them are on that side already. asin(value / largest) varies about as much
    everywhere, so the interval is plus and minus asin(reach / largest) there. It holds 0 where the
    value is within the reach, as one of constant width does, and stays within `largest`.
    """
    if largest <= 0:
        return value - reach, value + reach
    middle = math.asin(min(1.0, max(-1.0, value / largest)))
    # A reach beyond the largest difference leaves more open than one that just gets there.
    half = math.asin(min(1.0, reach / largest)) * max(1.0, reach / largest)
    low, high = max(-math.pi / 2, middle - half), min(math.pi / 2, middle + half)
    return largest * math.sin(low), largest * math.sin(high)


def _percent_interval(
    target: Side, reference: Side, reach: float, n_members: float
) -> tuple[float | None, float | None]:
    """Interval of the percentage change; no upper end where the reference has no latent."""
    if not target.count + reference.count:
        return None, None
    largest = max(
        abs(log_ratio(*sides))
        for sides in (
            (Side(min(n_members, target.total), target.total), Side(0, reference.total)),
            (Side(0, target.total), Side(min(n_members, reference.total), reference.total)),
        )
    )
    low_ratio, high_ratio = bounded_interval(log_ratio(target, reference), reach, largest)
    low = -100.0 if not target.count else 100 * math.expm1(low_ratio)
    return low, None if not reference.count else 100 * math.expm1(high_ratio)


def _detectable(target: Side, reference: Side, reach: float) -> tuple[float | None, float | None]:
    """Smallest rise and fall, in percent, beyond the reach from this reference count."""
    if not reference.count:
        return None, None
    risen = math.floor((reference.share + reach) * target.total + _TIE) + 1
    fallen = math.ceil((reference.share - reach) * target.total - _TIE) - 1
    return (
        percent_change(Side(risen, target.total), reference) if risen <= target.total else None,
        percent_change(Side(fallen, target.total), reference) if fallen >= 0 else None,
    )


def _family_p(measured: Sequence[_Measured], differences: FloatArray) -> list[float]:
    """Family-wise p of every category among all rows of the table."""
    spread = np.sqrt((differences**2).mean(axis=0))
    rows = [i for i, sides in enumerate(measured) if spread[i] > 0 and sides.is_comparable]
    found = [1.0] * len(measured)
    if not rows:
        return found
    largest = (differences[:, rows] / spread[rows]).max(axis=1)
    for i in rows:
        found[i] = _rank_p(largest, abs(measured[i].difference) / spread[i])
    return found


def _share(counts: FloatArray, totals: FloatArray) -> FloatArray:
    shares: FloatArray = counts / np.where(totals > 0, totals, np.inf)[:, None]
    return shares
