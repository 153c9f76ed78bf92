"""Shares and changes with the judge's errors taken out, from a random, blind part of the reviews.

Estimator: PPI++ (Angelopoulos, Duchi & Zrnic 2023, arXiv 2311.01453) for a mean, that is the
regression estimator of two-phase sampling (Cochran 1977, section 12.6). With J the judge's word on
all N latents of a side, Y the reviewer's on a random n of them:

    share  = lambda * mean_N(J) + mean_n(Y - lambda * J)
    lambda = Cov(Y, J) / Var(J), kept within [0, 1]
    Var    = (1 / n - 1 / N) * S^2(Y - lambda * J)  +  S^2(Y) / N

The last term is the redraw of latents, as in every other interval of this package; it is left out
for the estimand `these latents`. (1 / n - 1 / N) is the finite-population correction: with n = N
only the redraw is left. A denominator that the judge can get wrong too (labelled, assigned) makes
the share a ratio of two such means, linearised. Where a reviewed sample shows no error of some
kind, its variance is not 0: one latent in all, a quarter in each cell of (Y, J), is added to the
variances and to lambda, never to the estimate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from taxonomy.errors import InputError
from taxonomy.intervals import Interval, Side, wilson_interval
from taxonomy.significance import ALPHA

Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]
Estimand = Literal["redraws", "these latents"]
"""`redraws`: the share in the population of latents that such crosscoders yield; `these latents`:
the share that a review of every latent of this side would find."""
Method = Literal["ppi++", "wholly reviewed"]

LEAST_REVIEWED = 60
"""Reviewed latents of a side below which nothing is corrected."""
_CELL = 0.25
"""Weight of each of the four pseudo latents, in reviewed latents."""


@dataclass(frozen=True)
class SideAnswers:
    """What judge and reviewers say of one category on one side; all arrays are (N,).

    `human` and `human_counts` mean something only where `decided`; `audited` latents are those of
    the random, blind sample, a part of the decided ones.
    """

    judge: Flags
    """The judge puts the latent into the category."""
    judge_counts: Flags
    """The judge's label puts the latent into the denominator."""
    human: Flags
    human_counts: Flags
    decided: Flags
    audited: Flags
    inclusion_prob: Numbers
    """Probability with which the sample took the latent; only ratios of them matter."""

    def __post_init__(self) -> None:
        if (self.audited & ~self.decided).any():
            raise InputError("an audited latent must have a reviewer's decision")
        chosen = self.inclusion_prob[self.audited]
        if not ((chosen > 0) & (chosen <= 1)).all():
            raise InputError("inclusion_prob of a reviewed latent must lie above 0 and at most 1")

    @property
    def n_latents(self) -> int:
        """Latents of the side that the judge labelled."""
        return len(self.judge)

    @property
    def n_reviewed(self) -> int:
        """Latents of the random, blind sample."""
        return int(self.audited.sum())

    @property
    def is_wholly_reviewed(self) -> bool:
        """Whether every latent has a reviewer's decision: then nothing is left to correct."""
        return bool(self.n_latents and self.decided.all())


@dataclass(frozen=True)
class CorrectedShare:
    """One side's share without the judge's errors.

    `variance` is that of the share; `judge_share` what the judge alone says. `low` and `high` are
    the 95% interval, on the logit scale, or Wilson's where the side is wholly reviewed.
    """

    method: Method
    share: float
    low: float
    high: float
    variance: float
    judge_share: float | None
    weight_of_judge: float
    """lambda: 0 where the judge says nothing of use."""
    n_reviewed: int
    n_latents: int


def refusal_of(answers: SideAnswers) -> str | None:
    """Why a side cannot be corrected, in a few words; None where it can."""
    if answers.is_wholly_reviewed or answers.n_reviewed >= LEAST_REVIEWED:
        return None
    return (
        f"{answers.n_reviewed} of {answers.n_latents} latents reviewed blind from a random draw, "
        f"{LEAST_REVIEWED} are needed, or all of them"
    )


def corrected_share(
    answers: SideAnswers, estimand: Estimand = "redraws", alpha: float = ALPHA
) -> CorrectedShare:
    """Return one side's corrected share; InputError where `refusal_of` names a reason."""
    refusal = refusal_of(answers)
    if refusal is not None:
        raise InputError(f"no correction: {refusal}")
    sample = _sample(answers)
    numerator = _regression(sample, sample.human, sample.judge, answers.judge)
    denominator = _regression(
        sample, sample.human_counts, sample.judge_counts, answers.judge_counts
    )
    if denominator.mean <= 0:
        raise InputError("no correction: no reviewed latent is in the denominator")
    raw = numerator.mean / denominator.mean
    share = min(1.0, max(0.0, raw))
    left_over = numerator.residual - share * denominator.residual
    redrawn = sample.human - share * sample.human_counts
    variance = _spread(left_over, sample, squared=True) * (1 - sample.n / answers.n_latents)
    if estimand == "redraws":
        variance += _spread(redrawn, sample, squared=False) / answers.n_latents
    variance /= denominator.mean**2
    whole = answers.is_wholly_reviewed
    interval = _share_interval(share, variance, answers, estimand, alpha)
    counted = int(answers.judge_counts.sum())
    return CorrectedShare(
        method="wholly reviewed" if whole else "ppi++",
        share=share,
        low=interval.low,
        high=interval.high,
        variance=variance,
        judge_share=int(answers.judge.sum()) / counted if counted else None,
        weight_of_judge=numerator.weight,
        n_reviewed=sample.n,
        n_latents=answers.n_latents,
    )


@dataclass(frozen=True)
class RatioEstimate:
    """A ratio of shares with its interval on the log scale, and the p that it is 1."""

    ratio: float | None
    """None where the reference share is 0."""
    interval: Interval
    p_value: float


def corrected_ratio(
    target: CorrectedShare, reference: CorrectedShare, alpha: float = ALPHA
) -> RatioEstimate:
    """Return target share / reference share, on the log scale by the delta method.

    A share of 0 is named by a ratio of 0 or None; its logarithm is taken at half a latent.
    """
    first, second = _floored(target), _floored(reference)
    log_ratio = math.log(first / second)
    error = math.sqrt(target.variance / first**2 + reference.variance / second**2)
    z = float(norm.isf(alpha / 2))
    interval = Interval(
        0.0 if target.share == 0 else math.exp(log_ratio - z * error),
        math.inf if reference.share == 0 else math.exp(log_ratio + z * error),
    )
    p_value = float(2 * norm.sf(abs(log_ratio) / error)) if error > 0 else float(first == second)
    ratio = target.share / reference.share if reference.share > 0 else None
    return RatioEstimate(ratio, interval, p_value)


def _floored(side: CorrectedShare) -> float:
    return max(side.share, 0.5 / side.n_latents)


@dataclass(frozen=True)
class _Sample:
    """The reviewed latents (n,), then the four pseudo latents, with weights of mean 1."""

    human: Numbers
    human_counts: Numbers
    judge: Numbers
    judge_counts: Numbers
    weights: Numbers
    n: int


def _sample(answers: SideAnswers) -> _Sample:
    whole = answers.is_wholly_reviewed
    rows = answers.decided if whole else answers.audited
    weights = np.ones(int(rows.sum())) if whole else 1.0 / answers.inclusion_prob[rows]
    cells = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.float64)
    ones = np.ones(4)

    def joined(flags: Flags, pseudo: Numbers) -> Numbers:
        return np.concatenate([flags[rows].astype(np.float64), pseudo])

    return _Sample(
        human=joined(answers.human & answers.human_counts, cells[:, 0]),
        human_counts=joined(answers.human_counts, ones),
        judge=joined(answers.judge, cells[:, 1]),
        judge_counts=joined(answers.judge_counts, ones),
        weights=np.concatenate([weights / weights.mean(), np.full(4, _CELL)]),
        n=len(weights),
    )


@dataclass(frozen=True)
class _Regression:
    """A mean by regression on the judge: the estimate, lambda, and residuals (n + 4,)."""

    mean: float
    weight: float
    residual: Numbers


def _regression(sample: _Sample, human: Numbers, judge: Numbers, everywhere: Flags) -> _Regression:
    spread = _covariance(judge, judge, sample.weights)
    slope = _covariance(human, judge, sample.weights) / spread if spread > 0 else 0.0
    slope = min(1.0, max(0.0, slope))
    residual = human - slope * judge
    real = slice(0, sample.n)
    rectifier = float(np.average(residual[real], weights=sample.weights[real]))
    return _Regression(slope * float(everywhere.mean()) + rectifier, slope, residual)


def _covariance(a: Numbers, b: Numbers, weights: Numbers) -> float:
    total = weights.sum()
    centred = (a - np.average(a, weights=weights)) * (b - np.average(b, weights=weights))
    return float((weights * centred).sum() / (total - 1))


def _spread(values: Numbers, sample: _Sample, squared: bool) -> float:
    """Variance of `values`, of one latent, or (`squared`) of their weighted mean."""
    weights = sample.weights
    if not squared:
        return _covariance(values, values, weights)
    deviation = (values - np.average(values, weights=weights)) ** 2
    # A pseudo latent counts by its weight, a drawn one by its weight's square: equal where all
    # weights are.
    real = slice(0, sample.n)
    drawn = float((weights[real] ** 2 * deviation[real]).sum())
    return (drawn + _CELL * float(deviation[sample.n :].sum())) / float(sample.n) ** 2


def _share_interval(
    share: float, variance: float, answers: SideAnswers, estimand: Estimand, alpha: float
) -> Interval:
    if answers.is_wholly_reviewed:
        if estimand == "these latents":
            return Interval(share, share)
        counted = int(answers.human_counts.sum())
        inside = int((answers.human & answers.human_counts).sum())
        wilson = wilson_interval(Side(inside, counted), alpha)
        return wilson if wilson is not None else Interval(0.0, 1.0)
    floor = 0.5 / answers.n_latents
    centre = min(1 - floor, max(floor, share))
    reach = float(norm.isf(alpha / 2)) * math.sqrt(variance) / (centre * (1 - centre))
    logit = math.log(centre / (1 - centre))
    return Interval(
        0.0 if share == 0 else 1 / (1 + math.exp(reach - logit)),
        1.0 if share == 1 else 1 / (1 + math.exp(-reach - logit)),
    )
