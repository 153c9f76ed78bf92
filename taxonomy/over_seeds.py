"""A change over seeds: several dictionaries of the same models, each with its own latents.

Another seed is another dictionary, no new text and no new models. What the text leaves open stays
as it is, however many seeds there are; what the dictionary leaves open is seen from the spread of
the seeds and shrinks with their number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit

from taxonomy.counts import ALPHA, CategoryCounts, Interval, Side
from taxonomy.errors import InputError

ZERO_CORRECTION = 0.5
"""Added to every count and total, so that a count of 0 has a logarithm (Walter 1975)."""
_LEAST_P = 1e-12
"""Smaller p are not told apart."""


@dataclass(frozen=True)
class SeedError:
    """The uncertainty of an estimate over m seeds: a variance within seeds and one between them.

    Its quantile is Cochran's: that of Student's t for either variance, weighted by the variances
    (Cochran and Cox 1957, section 4.14). It never falls short of the level, where Satterthwaite's
    degrees of freedom do with so few seeds.
    """

    within: float
    """What is left open with these dictionaries."""
    between: float
    """Variance between seeds over m."""
    n_seeds: int
    freedom: float = math.inf
    """Degrees of freedom of `within`; `between` has m - 1."""

    @property
    def error(self) -> float:
        """The standard error."""
        return math.sqrt(self.within + self.between)

    def reach(self, alpha: float = ALPHA) -> float:
        """Half the width of the interval."""
        return self._quantile(alpha) * self.error

    def p_of(self, value: float) -> float:
        """Two-sided p that the true value is 0; 1 where nothing varies."""
        if self.error <= 0:
            return 1.0
        ratio = abs(value) / self.error
        if ratio <= self._quantile(1.0):
            return 1.0
        if ratio >= self._quantile(_LEAST_P):
            return _LEAST_P
        exponent = brentq(
            lambda power: self._quantile(10.0**power) - ratio, math.log10(_LEAST_P), 0.0
        )
        return float(10.0**exponent)

    def _quantile(self, alpha: float) -> float:
        own = _t_quantile(alpha, self.freedom)
        if self.between <= 0:
            return own
        other = _t_quantile(alpha, self.n_seeds - 1)
        return (self.within * own + self.between * other) / (self.within + self.between)


def _t_quantile(alpha: float, freedom: float) -> float:
    """Two-sided; scipy.special is a hundred times faster than scipy.stats, and p needs many."""
    return float(-ndtri(alpha / 2) if math.isinf(freedom) else -stdtrit(freedom, alpha / 2))


def error_of_reach(reach: float, alpha: float = ALPHA) -> float:
    """The standard error of a normal estimate whose interval has this half width."""
    return reach / _t_quantile(alpha, math.inf)


def pooled(tables: Sequence[Sequence[CategoryCounts]]) -> list[CategoryCounts]:
    """The counts of all seeds added up, category by category; the tables have the same rows."""
    return [_sum(rows) for rows in zip(*tables, strict=True)]


def _sum(rows: Sequence[CategoryCounts]) -> CategoryCounts:
    first = rows[0]
    if any(row.category != first.category for row in rows):
        raise InputError(f"a seed has another category where one has {first.category!r}")
    return CategoryCounts(
        category=first.category,
        level=first.level,
        parent=first.parent,
        target_count=sum(row.target_count for row in rows),
        target_total=sum(row.target_total for row in rows),
        reference_count=sum(row.reference_count for row in rows),
        reference_total=sum(row.reference_total for row in rows),
    )


@dataclass(frozen=True)
class SeedSpread:
    """How one category's pooled change varies between seeds.

    Variances of the estimate, by the jackknife over seeds (Efron and Stein 1981): for a mean of m
    seeds that is their variance over m.
    """

    n_seeds: int
    difference: float
    """Of the difference of shares."""
    log_ratio: float
    """Of the logarithm of the ratio of the shares."""
    n_alike: int
    """Seeds whose own difference of shares has the sign of the pooled one."""


def seed_spreads(tables: Sequence[Sequence[CategoryCounts]]) -> list[SeedSpread]:
    """The spread of every category over the seeds' tables; at least two of them."""
    return [_spread(rows) for rows in zip(*tables, strict=True)]


def _spread(rows: Sequence[CategoryCounts]) -> SeedSpread:
    signs = [np.sign(_difference(row)) for row in rows]
    return SeedSpread(
        n_seeds=len(rows),
        difference=_jackknife(rows, _difference),
        log_ratio=_jackknife(rows, lambda row: log_ratio(row.target, row.reference)),
        n_alike=int(np.sum(signs == np.sign(_difference(_sum(rows))))),
    )


def _jackknife(
    rows: Sequence[CategoryCounts], statistic: Callable[[CategoryCounts], float]
) -> float:
    n_seeds = len(rows)
    without = [statistic(_sum([*rows[:i], *rows[i + 1 :]])) for i in range(n_seeds)]
    return (n_seeds - 1) * float(np.var(without))


def _difference(row: CategoryCounts) -> float:
    if not row.target_total or not row.reference_total:
        return 0.0
    return row.target.share - row.reference.share


def log_ratio(target: Side, reference: Side) -> float:
    """Logarithm of the ratio of the shares, half a latent added to every count (Walter 1975)."""
    half = ZERO_CORRECTION
    return math.log(
        ((target.count + half) / (target.total + half))
        / ((reference.count + half) / (reference.total + half))
    )


@dataclass(frozen=True)
class LogRatio:
    """Logarithm of target share / reference share of one crosscoder, and its variance."""

    value: float
    variance: float
    is_zero: bool = False
    """A count was 0: the value leans on `ZERO_CORRECTION`."""


@dataclass(frozen=True)
class CombinedChange:
    """The change over seeds, in percent; the variances are those of the log ratio.

    `between` is None for a single seed, whose interval knows nothing of other seeds.
    """

    n_seeds: int
    percent_change: float
    ci_low: float
    ci_high: float
    p_value: float
    within: float
    between: float | None
    n_same_sign: int
    """Seeds whose own change has the sign of the combined one."""
    n_zero: int
    """Seeds in which a count was 0."""


def log_ratio_of(target: Side, reference: Side) -> LogRatio:
    """Adjusted log ratio of two shares and its variance (Walter 1975; Pettigrew et al. 1986).

    InputError where a side has no latents.
    """
    if not target.total or not reference.total:
        raise InputError("a seed without latents on a side has no ratio of shares")
    half = ZERO_CORRECTION
    variance = sum(
        1 / (side.count + half) - 1 / (side.total + half) for side in (target, reference)
    )
    is_zero = not target.count or not reference.count
    return LogRatio(log_ratio(target, reference), variance, is_zero)


def combine_seeds(seeds: Sequence[LogRatio], alpha: float = ALPHA) -> CombinedChange:
    """Combine m seeds: the mean log ratio, with variance W + B / m.

    W is the mean variance within a seed, B the variance between seeds, found from the spread of
    the values. Random effects with errors within seeds that are taken as perfectly correlated
    (Borenstein et al. 2009, chapter 24, r = 1): other seeds are other dictionaries of the same
    two models, no new models, so that the interval never gets narrower than that of one seed.
    Student's t as in `SeedError`. InputError without seeds.
    """
    if not seeds:
        raise InputError("no seeds to combine")
    values = np.array([seed.value for seed in seeds])
    within = float(np.mean([seed.variance for seed in seeds]))
    mean, n_seeds = float(values.mean()), len(seeds)
    between = float(values.var(ddof=1)) if n_seeds > 1 else None
    found = SeedError(within, (between or 0.0) / n_seeds, n_seeds)
    interval = Interval(mean - found.reach(alpha), mean + found.reach(alpha))
    return CombinedChange(
        n_seeds=n_seeds,
        percent_change=100 * math.expm1(mean),
        ci_low=100 * math.expm1(interval.low),
        ci_high=100 * math.expm1(interval.high),
        p_value=found.p_of(mean),
        within=within,
        between=between,
        n_same_sign=int((np.sign(values) == np.sign(mean)).sum()),
        n_zero=sum(seed.is_zero for seed in seeds),
    )
