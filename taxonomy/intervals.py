"""Confidence intervals of shares, of their difference and of their ratio, with every zero handled.

A side is `count` latents out of `total`; weighted sides have effective numbers, which need not be
whole. Intervals are two-sided with coverage `1 - alpha`.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm
from scipy.stats import t as student_t
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from taxonomy.counts import Interval, Side
from taxonomy.settings import ALPHA

_RATIO_SEARCH_LIMIT = 1e12
"""Ratio beyond which a bound counts as infinite (or its inverse as zero)."""


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
