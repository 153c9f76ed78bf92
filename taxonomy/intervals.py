"""Tests and intervals of two proportions, with every zero handled.

Exact tests of a two-by-two table: Fisher's and Boschloo's, and what they could ever say. Confidence
intervals of shares, of their difference and of their ratio, two-sided with coverage `1 - alpha`.

A side is `count` latents out of `total`; weighted sides have effective numbers, which need not be
whole.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq, minimize_scalar
from scipy.special import gammaln
from scipy.stats import binom, false_discovery_control, fisher_exact, hypergeom, norm
from scipy.stats import t as student_t
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from taxonomy.counts import ALPHA, CategoryCounts, Interval, Side
from taxonomy.errors import InputError

_LARGE = 10_000
"""Latents of both sides beyond which the library's exact arithmetic is slow."""
_TIE = 1e-7
"""Tables whose log-probabilities differ by less count as equally likely, as in R."""
_SAWTOOTH = 8
"""Counts over which the two-sided p of a discrete test may rise again before it falls for good."""
_GRID = 257
"""Nuisance shares looked at before the best one is refined."""
_RELATIVE_TIE = 1e-12
"""Relative difference up to which two Fisher p-values count as equal."""
_CHUNK = 10_000
"""Permutations drawn at a time, which bounds the memory."""
_RATIO_SEARCH_LIMIT = 1e12
"""Ratio beyond which a bound counts as infinite (or its inverse as zero)."""


def fisher_p(target: Side, reference: Side) -> float:
    """Two-sided p-value of Fisher's exact test that both sides have the same share.

    1.0 where `is_degenerate`: such a table can not speak against anything, and no library is asked.
    Counts and totals are whole numbers.
    """
    if is_degenerate(target, reference):
        return 1.0
    if target.total + reference.total > _LARGE:
        return _fisher_p_by_logarithms(target, reference)
    table = [
        [target.count, target.total - target.count],
        [reference.count, reference.total - reference.count],
    ]
    return float(fisher_exact(table).pvalue)


def _fisher_p_by_logarithms(target: Side, reference: Side) -> float:
    """The same p summed over the whole support at once: milliseconds where the library takes 0.1 s.

    Probabilities are exp of sums of log-gammas, good to a relative error of about 1e-9.
    """
    pooled, total = int(target.count + reference.count), int(target.total + reference.total)
    first = max(0, pooled - int(reference.total))
    counts = np.arange(first, min(pooled, int(target.total)) + 1)
    logs = (
        _log_choose(target.total, counts)
        + _log_choose(reference.total, pooled - counts)
        - _log_choose(total, pooled)
    )
    as_unlikely = logs <= logs[int(target.count) - first] + _TIE
    return float(min(1.0, np.exp(logs[as_unlikely]).sum()))


def _log_choose(n: float, k: npt.ArrayLike) -> npt.NDArray[np.float64]:
    chosen = np.asarray(k, dtype=np.float64)
    return np.asarray(gammaln(n + 1.0) - gammaln(chosen + 1.0) - gammaln(n - chosen + 1.0))


def is_degenerate(target: Side, reference: Side) -> bool:
    """Whether a margin is zero: no latents on a side, none in the category, or none outside it."""
    pooled = target.count + reference.count
    return (
        target.total == 0
        or reference.total == 0
        or pooled == 0
        or pooled == target.total + reference.total
    )


def least_attainable_p(
    target: Side, reference: Side, test: Callable[[Side, Side], float] = fisher_p
) -> float:
    """Smallest two-sided p of any table with the margins of this one.

    The least likely table lies at an end of the hypergeometric support, so that the two ends
    decide (Tarone 1990).
    """
    pooled = target.count + reference.count
    ends = {max(0, pooled - reference.total), min(pooled, target.total)}
    return min(test(Side(end, target.total), Side(pooled - end, reference.total)) for end in ends)


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Benjamini-Hochberg (1995) adjusted p-values of one family, in the order given."""
    if not p_values:
        return []
    adjusted = false_discovery_control(np.asarray(p_values, dtype=np.float64), method="bh")
    return [float(value) for value in adjusted]


def adjust_by_level(levels: Sequence[int], p_values: Sequence[float | None]) -> list[float]:
    """Benjamini-Hochberg q of each row; the rows of one level of the tree are a family.

    A row whose p is None is no test: it belongs to no family, and its q is 1.
    """
    families: dict[int, dict[int, float]] = defaultdict(dict)
    for index, (level, p_value) in enumerate(zip(levels, p_values, strict=True)):
        if p_value is not None:
            families[level][index] = p_value
    q_values = [1.0] * len(p_values)
    for family in families.values():
        for index, q_value in zip(family, benjamini_hochberg([*family.values()]), strict=True):
            q_values[index] = q_value
    return q_values


def minimum_detectable_count(
    reference: Side,
    target_total: int,
    *,
    alpha: float = ALPHA,
    direction: Literal["up", "down"] = "up",
) -> int | None:
    """Target count nearest to the reference share from which Fisher's p falls below `alpha`.

    For `up` the smallest such count above the reference share, for `down` the largest below it;
    None where no count gets there.
    """
    if target_total == 0 or reference.total == 0:
        return None
    even = reference.share * target_total
    if direction == "up":
        counts: Sequence[int] = range(int(np.ceil(even)), int(target_total) + 1)
    else:
        counts = range(int(np.floor(even)), -1, -1)

    def is_detected(count: int) -> bool:
        return fisher_p(Side(count, target_total), reference) < alpha

    near = bisect_left(counts, True, key=is_detected)
    around = counts[max(0, near - _SAWTOOTH) : near + 1]
    return next((count for count in around if is_detected(count)), None)


@lru_cache(maxsize=65_536)
def boschloo_p(target: Side, reference: Side) -> float:
    """Two-sided p-value of Boschloo's test (1970), twice the smaller one-sided one, at most 1.

    Uniformly more powerful than Fisher's test and as exact. Equal to scipy's `boschloo_exact`, but
    linear in the totals where that one is quadratic. Counts and totals are whole numbers; 1.0
    where a margin is zero.
    """
    if is_degenerate(target, reference):
        return 1.0
    return min(1.0, 2 * min(_one_sided(target, reference), _one_sided(reference, target)))


def _one_sided(few: Side, many: Side) -> float:
    """Largest probability, over the common share, of a table as far toward `few` being few."""
    border = _rejection_border(few, many)
    counts = np.arange(int(few.total) + 1)

    def power(share: npt.ArrayLike) -> npt.NDArray[np.float64]:
        shares = np.atleast_1d(np.asarray(share, dtype=np.float64))[:, None]
        mass = binom.pmf(counts, int(few.total), shares)
        beyond = binom.sf(border - 1, int(many.total), shares)
        result: npt.NDArray[np.float64] = (mass * beyond).sum(axis=1)
        return result

    grid = np.linspace(0.0, 1.0, _GRID)
    values = power(grid)
    best = int(values.argmax())
    around = (grid[max(0, best - 1)], grid[min(_GRID - 1, best + 1)])
    refined = minimize_scalar(lambda share: -float(power(share)[0]), bounds=around)
    return max(float(values[best]), -float(refined.fun))


def _rejection_border(few: Side, many: Side) -> npt.NDArray[Any]:
    """For each count of `few`, (total + 1,): least count of `many` that is as extreme as observed.

    The one-sided Fisher p falls as the count of `many` grows, so that bisection finds it; a count
    above the total stands where no table is.
    """
    n_few, n_many = int(few.total), int(many.total)
    counts = np.arange(n_few + 1)

    def fisher(of_few: npt.ArrayLike, of_many: npt.ArrayLike) -> npt.NDArray[np.float64]:
        pooled = np.add(of_few, of_many)
        p_values: npt.NDArray[np.float64] = hypergeom.cdf(of_few, n_few + n_many, pooled, n_few)
        return p_values

    observed = float(fisher(few.count, many.count)) * (1 + _RELATIVE_TIE)
    low = np.zeros_like(counts)
    high = np.full_like(counts, n_many + 1)
    while (low < high).any():
        middle = (low + high) // 2
        extreme = fisher(counts, np.minimum(middle, n_many)) <= observed
        open_ = low < high
        high = np.where(open_ & extreme & (middle <= n_many), middle, high)
        low = np.where(open_ & ~extreme, middle + 1, low)
    return low


@dataclass(frozen=True)
class GlobalTest:
    """Outcome of the permutation chi-square test; `p_value` is 1 where nothing can differ."""

    statistic: float
    degrees_of_freedom: int
    p_value: float
    n_permutations: int


def global_test(
    target: Sequence[int], reference: Sequence[int], *, seed: int, n_permutations: int = 9_999
) -> GlobalTest:
    """Test that both sides draw their latents from the same categories.

    `target` and `reference` are counts over one partition of the latents (`partition_counts`).
    Latents are permuted between the sides, which is a draw from the multivariate hypergeometric
    distribution; the statistic is Pearson's chi-square, and p = (1 + exceedances) /
    (1 + permutations) (Phipson & Smyth 2010).
    """
    observed = np.asarray(target, dtype=np.int64)
    other = np.asarray(reference, dtype=np.int64)
    if observed.shape != other.shape or observed.ndim != 1:
        raise InputError("the two sides of a global test must count the same categories")
    if (observed < 0).any() or (other < 0).any():
        raise InputError("a global test needs counts of 0 or more; was a latent counted twice?")
    pooled = observed + other
    seen = pooled > 0
    observed, pooled = observed[seen], pooled[seen]
    n_target, n_all = int(observed.sum()), int(pooled.sum())
    if len(pooled) < 2 or n_target in (0, n_all):
        return GlobalTest(0.0, 0, 1.0, 0)
    statistic = float(_chi_square(observed[None, :], pooled)[0])
    generator = np.random.default_rng(seed)
    exceedances = 0
    for start in range(0, n_permutations, _CHUNK):
        size = min(_CHUNK, n_permutations - start)
        drawn = generator.multivariate_hypergeometric(
            pooled, n_target, size=size, method="marginals"
        )
        exceedances += int((_chi_square(drawn, pooled) >= statistic * (1 - 1e-12)).sum())
    return GlobalTest(
        statistic, len(pooled) - 1, (1 + exceedances) / (1 + n_permutations), n_permutations
    )


def partition_counts(
    counts: Iterable[CategoryCounts],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return target and reference counts over cells that each latent falls into one of.

    A cell is what a category has beyond its children: all of a leaf, at whatever level it stands,
    and what lies in a group itself and in none of its categories. The latents without a category
    come last. Primary counts of a whole tree only: a cell is negative, and `global_test` refuses
    it, where a latent is counted in several categories.
    """
    rows = list(counts)
    below: dict[str, list[int]] = {}
    for row in rows:
        if row.parent is not None:
            sums = below.setdefault(row.parent, [0, 0])
            sums[0] += row.target_count
            sums[1] += row.reference_count
    own = [
        (row.target_count - inside[0], row.reference_count - inside[1])
        for row in rows
        for inside in (below.get(row.category, (0, 0)),)
    ]
    if rows:
        taken = [sum(cell[side] for cell in own) for side in (0, 1)]
        own.append((rows[0].target_total - taken[0], rows[0].reference_total - taken[1]))
    return tuple(cell[0] for cell in own), tuple(cell[1] for cell in own)


def _chi_square(
    target: npt.NDArray[np.int64], pooled: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Pearson's statistic of 2 x C tables with common margins.

    `target` (R, C) are the first rows of the tables, `pooled` (C,) their column sums, all > 0.
    """
    n_target, n_all = target[0].sum(), pooled.sum()
    expected = pooled * (n_target / n_all)
    deviation = (target - expected) ** 2 / expected
    result: npt.NDArray[np.float64] = deviation.sum(axis=1) * (n_all / (n_all - n_target))
    return result


def wilson_interval(side: Side, alpha: float = ALPHA) -> Interval | None:
    """Wilson score interval of a share (Wilson 1927); None where the total is 0."""
    if side.total == 0:
        return None
    low, high = proportion_confint(side.count, side.total, alpha=alpha, method="wilson")
    return Interval(0.0 if side.count == 0 else float(low), 1.0 if side.is_full else float(high))


def newcombe_interval(target: Side, reference: Side, alpha: float = ALPHA) -> Interval | None:
    """Newcombe's hybrid score interval (1998, method 10) of target share minus reference share.

    In shares, not in points; None where a total is 0.
    """
    if target.total == 0 or reference.total == 0:
        return None
    low, high = confint_proportions_2indep(
        target.count,
        target.total,
        reference.count,
        reference.total,
        compare="diff",
        method="newcomb",
        alpha=alpha,
    )
    return Interval(max(-1.0, float(low)), min(1.0, float(high)))


def ratio_interval(target: Side, reference: Side, alpha: float = ALPHA) -> Interval | None:
    """Score interval (Koopman 1984; Miettinen & Nurminen 1985) of target share / reference share.

    None where it is undefined: a total of 0, or no latent on either side. The lower bound is 0
    where the target count is 0, the upper one infinite where the reference count is 0. The closed
    form of statsmodels is taken where it holds; it breaks down (complex or empty intervals) where
    a side is full, and there the score test is inverted numerically.
    """
    if target.total == 0 or reference.total == 0 or target.count + reference.count == 0:
        return None
    if target.is_full or reference.is_full:
        return invert_score_test(target, reference, alpha)
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = confint_proportions_2indep(
            target.count,
            target.total,
            reference.count,
            reference.total,
            compare="ratio",
            method="score",
            alpha=alpha,
        )
    return Interval(
        0.0 if target.count == 0 else float(low), math.inf if reference.count == 0 else float(high)
    )


def ratio_score(target: Side, reference: Side, ratio: float) -> float:
    """Signed score statistic z of the hypothesis target share = `ratio` * reference share.

    Miettinen & Nurminen 1985: Koopman's statistic with the variance raised by N / (N - 1), and the
    shares' maximum-likelihood estimates under the hypothesis. It falls as `ratio` grows.
    """
    total = target.total + reference.total
    p_reference = _constrained_reference_share(target, reference, ratio)
    p_target = min(1.0, ratio * p_reference)
    variance = (
        p_target * (1 - p_target) / target.total
        + ratio**2 * p_reference * (1 - p_reference) / reference.total
    ) * (total / (total - 1))
    distance = target.share - ratio * reference.share
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def invert_score_test(target: Side, reference: Side, alpha: float = ALPHA) -> Interval:
    """Ratios that the score test does not reject at `alpha`, found by root search on log ratio."""
    z = float(norm.isf(alpha / 2))
    edge = math.log(_RATIO_SEARCH_LIMIT)

    def bound(level: float) -> float:
        return float(
            brentq(
                lambda log_ratio: ratio_score(target, reference, math.exp(log_ratio)) - level,
                -edge,
                edge,
                xtol=1e-12,
            )
        )

    return Interval(
        0.0 if target.count == 0 else math.exp(bound(z)),
        math.inf if reference.count == 0 else math.exp(bound(-z)),
    )


def score_p(target: Side, reference: Side, degrees_of_freedom: float = math.inf) -> float:
    """Two-sided p of the score test that both shares are equal, by Student's t.

    1.0 where the test is undefined: a total of 0, or a pooled share of 0 or 1.
    """
    pooled = target.count + reference.count
    if not target.total or not reference.total or pooled in (0, target.total + reference.total):
        return 1.0
    return float(2 * student_t.sf(abs(ratio_score(target, reference, 1.0)), degrees_of_freedom))


def _constrained_reference_share(target: Side, reference: Side, ratio: float) -> float:
    """Smaller root of the quadratic: the reference share most likely under the given ratio."""
    a = (target.total + reference.total) * ratio
    b = -((target.total + reference.count) * ratio + target.count + reference.total)
    c = target.count + reference.count
    root = math.sqrt(max(0.0, b * b - 4 * a * c))
    return min(1.0, 1.0 / ratio, 2 * c / (-b + root))
