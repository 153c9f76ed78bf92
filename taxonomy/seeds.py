"""One change from several crosscoders of the same models: the seed's variance is added."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

from taxonomy.counts import Interval, Side
from taxonomy.errors import InputError
from taxonomy.settings import ALPHA

ZERO_CORRECTION = 0.5
"""Added to every count and total, so that a count of 0 has a logarithm (Walter 1975)."""
_LEAST_PART = 1e-6
"""Part of the variance that lies between seeds below which Student's t is the normal."""


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
    degrees_of_freedom: float
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
    value = math.log((target.count + half) / (target.total + half)) - math.log(
        (reference.count + half) / (reference.total + half)
    )
    variance = sum(
        1 / (side.count + half) - 1 / (side.total + half) for side in (target, reference)
    )
    return LogRatio(value, variance, is_zero=not target.count or not reference.count)


def combine_seeds(seeds: Sequence[LogRatio], alpha: float = ALPHA) -> CombinedChange:
    """Combine m seeds: the mean log ratio, with variance W + B / m.

    W is the mean variance within a seed, B the variance between seeds, found from the spread of
    the values. Random effects with errors within seeds that are taken as perfectly correlated
    (Borenstein et al. 2009, chapter 24, r = 1): other seeds are other dictionaries of the same
    two models, no new models, so that the interval never gets narrower than that of one seed.
    Student's t by Satterthwaite's degrees of freedom. InputError without seeds.
    """
    if not seeds:
        raise InputError("no seeds to combine")
    values = np.array([seed.value for seed in seeds])
    within = float(np.mean([seed.variance for seed in seeds]))
    mean, n_seeds = float(values.mean()), len(seeds)
    between = float(values.var(ddof=1)) if n_seeds > 1 else None
    added = (between or 0.0) / n_seeds
    error = math.sqrt(within + added)
    part = added / (within + added) if added > 0 else 0.0
    freedom = (n_seeds - 1) / part**2 if part > _LEAST_PART else math.inf
    quantile = float(student_t.isf(alpha / 2, freedom))
    interval = Interval(mean - quantile * error, mean + quantile * error)
    return CombinedChange(
        n_seeds=n_seeds,
        percent_change=100 * math.expm1(mean),
        ci_low=100 * math.expm1(interval.low),
        ci_high=100 * math.expm1(interval.high),
        p_value=float(2 * student_t.sf(abs(mean) / error, freedom)) if error > 0 else 1.0,
        within=within,
        between=between,
        degrees_of_freedom=freedom,
        n_same_sign=int((np.sign(values) == np.sign(mean)).sum()),
        n_zero=sum(seed.is_zero for seed in seeds),
    )
