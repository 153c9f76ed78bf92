"""Shares and changes with the judge's errors taken out, from a blind random part of the reviews."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from taxonomy.counts import ALPHA, Interval, Side
from taxonomy.errors import InputError
from taxonomy.intervals import fisher_p, wilson_interval

Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]
Estimand = Literal["superpopulation", "finite_population"]
"""`superpopulation`: the share in the population that the latents are a sample of.
`finite_population`: the share that a review of every latent of this side would find."""
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
    answers: SideAnswers, estimand: Estimand = "superpopulation", alpha: float = ALPHA
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
    if estimand == "superpopulation":
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
        if estimand == "finite_population":
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


@dataclass(frozen=True)
class JudgeErrors:
    """The judge against the random, blind reviews of one side, for one category."""

    hits: Side
    """Of the latents that the reviewer puts into the category, those the judge does too."""
    rejections: Side
    """Of the latents that the reviewer keeps out of it, those the judge does too."""

    @property
    def sensitivity(self) -> float | None:
        """Share of the category's latents that the judge finds; None without any."""
        return self.hits.share if self.hits.total else None

    @property
    def specificity(self) -> float | None:
        """Share of the other latents that the judge keeps out; None without any."""
        return self.rejections.share if self.rejections.total else None


def judge_errors(answers: SideAnswers, *, counted_only: bool = False) -> JudgeErrors:
    """Count the judge's errors in the random, blind sample; all decisions where it is whole.

    `counted_only` leaves out what the judge keeps out of the denominator.
    """
    rows = answers.decided if answers.is_wholly_reviewed else answers.audited
    if counted_only:
        rows = rows & answers.judge_counts
    human = (answers.human & answers.human_counts)[rows]
    judge = answers.judge[rows]
    return JudgeErrors(
        hits=Side(int((human & judge).sum()), int(human.sum())),
        rejections=Side(int((~human & ~judge).sum()), int((~human).sum())),
    )


def equal_error_p(target: JudgeErrors, reference: JudgeErrors) -> float:
    """p-value of the hypothesis that the judge has the same error rates on both sides.

    Fisher's test of the two sensitivities and of the two specificities, the smaller p doubled
    (Bonferroni). A judge that over-calls a category on one side alone fakes a change.
    """
    return min(
        1.0,
        2 * fisher_p(target.hits, reference.hits),
        2 * fisher_p(target.rejections, reference.rejections),
    )


@dataclass(frozen=True)
class RoganGladen:
    """A share inferred from the judge's share and its error rates; None where it is unusable."""

    share: float | None
    low: float | None
    high: float | None
    note: str
    """Why there is no share, or an empty text."""


def rogan_gladen(judged: Side, errors: JudgeErrors, alpha: float = ALPHA) -> RoganGladen:
    """Rogan & Gladen (1978): (p + q0 - 1) / (q0 + q1 - 1), interval of Lee et al. (2025).

    q0 is the specificity, q1 the sensitivity, p the judge's share; the interval is that of arXiv
    2511.21140, adjusted as Agresti and Coull do. A cross-check: at the rates of rare categories it
    rests on a handful of reviewed latents.
    """
    if not judged.total or not errors.hits.total or not errors.rejections.total:
        return RoganGladen(None, None, None, "no reviewed latent of one kind")
    youden = errors.hits.share + errors.rejections.share - 1
    if youden <= 0:
        return RoganGladen(None, None, None, "the judge does no better than chance")
    share = min(1.0, max(0.0, (judged.share + errors.rejections.share - 1) / youden))
    z = float(norm.isf(alpha / 2))
    n, m0, m1 = judged.total + z * z, errors.rejections.total + 2, errors.hits.total + 2
    p = (judged.count + z * z / 2) / n
    q0, q1 = (errors.rejections.count + 1) / m0, (errors.hits.count + 1) / m1
    slope = q0 + q1 - 1
    if slope <= 0:
        return RoganGladen(share, None, None, "too few reviewed latents for an interval")
    theta = (p + q0 - 1) / slope
    shift = 2 * z * z * (theta * q1 * (1 - q1) / m1 - (1 - theta) * q0 * (1 - q0) / m0)
    error = math.sqrt(
        p * (1 - p) / n + (1 - theta) ** 2 * q0 * (1 - q0) / m0 + theta**2 * q1 * (1 - q1) / m1
    )
    centre, reach = theta + shift, z * error / slope
    return RoganGladen(share, max(0.0, centre - reach), min(1.0, centre + reach), "")
