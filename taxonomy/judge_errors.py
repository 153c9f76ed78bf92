"""How often the judge errs on each side, whether alike, and the shares Rogan and Gladen infer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.stats import norm

from taxonomy.correction import SideAnswers
from taxonomy.exact import fisher_p
from taxonomy.intervals import Side
from taxonomy.significance import ALPHA


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


def alike_p(target: JudgeErrors, reference: JudgeErrors) -> float:
    """p of the hypothesis that the judge errs alike on both sides.

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
