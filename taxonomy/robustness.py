"""Does a change hold? Without the judge's errors, and at stricter isolation thresholds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from taxonomy.change import percent_change
from taxonomy.counts import ALPHA, Interval, Side, bounds
from taxonomy.errors import InputError
from taxonomy.intervals import adjust_by_level, ratio_interval
from taxonomy.judge_error import (
    CorrectedShare,
    Estimand,
    JudgeErrors,
    RoganGladen,
    SideAnswers,
    corrected_ratio,
    corrected_share,
    equal_error_p,
    judge_errors,
    refusal_of,
    rogan_gladen,
)

LEAST_LATENTS = 10
"""Latents that a side needs for the sign of a change at a stricter threshold to count."""
LEAST_SHARE = 0.2
"""Share of a side's latents that a threshold must keep for the same reason."""
DEFAULT_POINTS = 12
Stability = Literal["stable", "unstable", "too few to say"]


@dataclass(frozen=True)
class CountedLabel:
    """One label: the categories it counts for, parents among them, and whether it is counted."""

    categories: frozenset[str]
    counts: bool
    """Whether the latent is in the denominator."""


@dataclass(frozen=True)
class JudgedLatent:
    """One latent with the judge's label and what reviewers made of it.

    `human` is None without a decision; `is_audited`: it was drawn at random and decided blind;
    `inclusion_prob` None = drawn with the same probability as all others.
    """

    judge: CountedLabel
    human: CountedLabel | None = None
    is_audited: bool = False
    inclusion_prob: float | None = None


@dataclass(frozen=True)
class CategoryKey:
    """A category and its place in the tree."""

    category: str
    level: int
    parent: str | None


@dataclass(frozen=True)
class CorrectedChange:
    """One category: corrected shares, change in percent, and the judge's errors."""

    category: str
    level: int
    parent: str | None
    target: CorrectedShare
    reference: CorrectedShare
    percent_change: float | None
    ci_low: float | None
    ci_high: float | None
    """None = infinite."""
    p_value: float
    q_value: float
    target_errors: JudgeErrors
    reference_errors: JudgeErrors
    equal_error_p: float
    """p of the hypothesis that the judge has the same error rates on both sides."""
    equal_error_q: float
    target_rogan_gladen: RoganGladen
    reference_rogan_gladen: RoganGladen


@dataclass(frozen=True)
class Correction:
    """The corrected changes; where a side cannot be corrected, none, and the reason."""

    estimand: Estimand
    rows: tuple[CorrectedChange, ...]
    refusal: str | None
    n_reviewed: tuple[int, int]
    """Target, reference: latents of the random, blind sample."""
    n_latents: tuple[int, int]
    is_whole: tuple[bool, bool]


def correct_changes(
    categories: Sequence[CategoryKey],
    target: Sequence[JudgedLatent],
    reference: Sequence[JudgedLatent],
    *,
    estimand: Estimand = "superpopulation",
    alpha: float = ALPHA,
) -> Correction:
    """Correct every category that the judge or a reviewer gave to a latent, in the order given."""
    sides = (_Side(target), _Side(reference))
    blanks = [side.answers("") for side in sides]
    reasons = [
        f"{name} side: {reason}"
        for name, reason in zip(("target", "reference"), map(refusal_of, blanks), strict=True)
        if reason is not None
    ]
    rows: list[CorrectedChange] = []
    if not reasons:
        seen = sides[0].categories | sides[1].categories
        rows = [
            _correct_category(key, sides[0].answers(key.category), sides[1].answers(key.category),
                       estimand, alpha)
            for key in categories
            if key.category in seen
        ]  # fmt: skip
    return Correction(
        estimand=estimand,
        rows=_adjust(rows),
        refusal="; ".join(reasons) or None,
        n_reviewed=(blanks[0].n_reviewed, blanks[1].n_reviewed),
        n_latents=(blanks[0].n_latents, blanks[1].n_latents),
        is_whole=(blanks[0].is_wholly_reviewed, blanks[1].is_wholly_reviewed),
    )


class _Side:
    """The latents of a side as arrays, made once for all categories."""

    def __init__(self, latents: Sequence[JudgedLatent]) -> None:
        self._latents = latents
        audited = [latent.is_audited and latent.human is not None for latent in latents]
        share = sum(audited) / len(latents) if latents else 1.0
        self._audited = np.array(audited, dtype=np.bool_)
        self._decided = np.array([latent.human is not None for latent in latents], dtype=np.bool_)
        self._probability = np.array(
            [latent.inclusion_prob or share or 1.0 for latent in latents], dtype=np.float64
        )
        self._judge_counts = _flags(latent.judge.counts for latent in latents)
        self._human_counts = _flags(
            latent.human is not None and latent.human.counts for latent in latents
        )
        self.categories = frozenset().union(
            *(latent.judge.categories for latent in latents),
            *(latent.human.categories for latent in latents if latent.human is not None),
        )

    def answers(self, category: str) -> SideAnswers:
        """The answers on one category."""
        return SideAnswers(
            judge=_flags(
                latent.judge.counts and category in latent.judge.categories
                for latent in self._latents
            ),
            judge_counts=self._judge_counts,
            human=_flags(
                latent.human is not None and category in latent.human.categories
                for latent in self._latents
            ),
            human_counts=self._human_counts,
            decided=self._decided,
            audited=self._audited,
            inclusion_prob=self._probability,
        )


def _flags(values: Iterable[bool]) -> npt.NDArray[np.bool_]:
    return np.fromiter(values, dtype=np.bool_)


def _correct_category(
    key: CategoryKey,
    target: SideAnswers,
    reference: SideAnswers,
    estimand: Estimand,
    alpha: float,
) -> CorrectedChange:
    shares = (
        corrected_share(target, estimand, alpha),
        corrected_share(reference, estimand, alpha),
    )
    ratio = corrected_ratio(*shares, alpha=alpha)
    interval: Interval | None = ratio.interval
    if estimand == "superpopulation" and target.is_wholly_reviewed and reference.is_wholly_reviewed:
        interval = ratio_interval(_counted_side(target), _counted_side(reference), alpha)
    ci_low, ci_high = bounds(interval and interval.percent_change())
    errors = (judge_errors(target), judge_errors(reference))
    return CorrectedChange(
        category=key.category,
        level=key.level,
        parent=key.parent,
        target=shares[0],
        reference=shares[1],
        percent_change=None if ratio.ratio is None else 100 * (ratio.ratio - 1),
        ci_low=ci_low,
        ci_high=ci_high,
        p_value=ratio.p_value,
        q_value=1.0,
        target_errors=errors[0],
        reference_errors=errors[1],
        equal_error_p=equal_error_p(*errors),
        equal_error_q=1.0,
        target_rogan_gladen=_cross_check(target, alpha),
        reference_rogan_gladen=_cross_check(reference, alpha),
    )


def _counted_side(answers: SideAnswers) -> Side:
    inside = answers.human & answers.human_counts
    return Side(int(inside.sum()), int(answers.human_counts.sum()))


def _cross_check(answers: SideAnswers, alpha: float) -> RoganGladen:
    judged = Side(int(answers.judge.sum()), int(answers.judge_counts.sum()))
    return rogan_gladen(judged, judge_errors(answers, counted_only=True), alpha)


def _adjust(rows: Sequence[CorrectedChange]) -> tuple[CorrectedChange, ...]:
    """The rows with Benjamini-Hochberg q-values, a level being a family."""
    levels = [row.level for row in rows]
    q_values = adjust_by_level(levels, [row.p_value for row in rows])
    error_q = adjust_by_level(levels, [row.equal_error_p for row in rows])
    return tuple(
        replace(row, q_value=q_value, equal_error_q=equal_error_q)
        for row, q_value, equal_error_q in zip(rows, q_values, error_q, strict=True)
    )


@dataclass(frozen=True)
class SweptLatent:
    """A latent of the denominator: the loosest threshold it still passes, and its categories.

    A latent is kept where its `strictness` is at most the threshold: smaller = more specific.
    """

    strictness: float
    categories: frozenset[str]
    """Parents among them."""


@dataclass(frozen=True)
class SweepPoint:
    """One category at one threshold; the change in percent with its 95% score interval."""

    category: str
    threshold: float
    target_count: int
    target_total: int
    reference_count: int
    reference_total: int
    percent_change: float | None
    ci_low: float | None
    ci_high: float | None
    """None next to a `ci_low` = infinite."""
    null_low: float | None = None
    """Percent, 2.5% of the draws lie below; None without draws."""
    null_high: float | None = None

    @property
    def sign(self) -> int:
        """1 more (or only) on the target side, -1 less, 0 equal or none at all."""
        if self.percent_change is None:
            return 1 if self.target_count and self.reference_total else 0
        return int(np.sign(self.percent_change))


@dataclass(frozen=True)
class SweptCategory:
    """One category over all thresholds, the loosest one (the study's own) last."""

    category: str
    points: tuple[SweepPoint, ...]
    stability: Stability
    """`unstable`: at some stricter threshold the point estimate has the other sign."""
    n_compared: int
    """Stricter thresholds with enough latents and a sign."""
    n_same_sign: int


def sweep_thresholds(
    target: Sequence[SweptLatent],
    reference: Sequence[SweptLatent],
    n_points: int = DEFAULT_POINTS,
) -> tuple[float, ...]:
    """Thresholds that keep evenly growing parts of all latents, from a tenth to all, in order."""
    values = np.array([latent.strictness for latent in (*target, *reference)])
    if not len(values):
        raise InputError("a sweep needs latents")
    if not np.isfinite(values).all():
        raise InputError("a sweep needs a finite strictness of every latent")
    parts = np.linspace(0.1, 1.0, n_points)
    return tuple(np.unique(np.quantile(values, parts, method="higher")).tolist())


def sweep_changes(
    categories: Sequence[str],
    target: Sequence[SweptLatent],
    reference: Sequence[SweptLatent],
    thresholds: Sequence[float],
    alpha: float = ALPHA,
) -> tuple[SweptCategory, ...]:
    """Return the change of each category at each threshold, and whether its sign holds.

    Thresholds in rising order; the last one keeps every latent of the study.
    """
    return tuple(
        swept_category(
            category,
            tuple(_point(category, target, reference, limit, alpha) for limit in thresholds),
        )
        for category in categories
    )


def _point(
    category: str,
    target: Sequence[SweptLatent],
    reference: Sequence[SweptLatent],
    threshold: float,
    alpha: float,
) -> SweepPoint:
    first, second = (_side(category, side, threshold) for side in (target, reference))
    ratio = ratio_interval(first, second, alpha)
    return SweepPoint(
        category=category,
        threshold=threshold,
        target_count=int(first.count),
        target_total=int(first.total),
        reference_count=int(second.count),
        reference_total=int(second.total),
        percent_change=percent_change(first, second),
        ci_low=None if ratio is None else 100 * (ratio.low - 1),
        ci_high=None if ratio is None or np.isinf(ratio.high) else 100 * (ratio.high - 1),
    )


def _side(category: str, latents: Sequence[SweptLatent], threshold: float) -> Side:
    kept = [latent for latent in latents if latent.strictness <= threshold]
    return Side(sum(category in latent.categories for latent in kept), len(kept))


def swept_category(
    category: str, points: tuple[SweepPoint, ...], own: SweepPoint | None = None
) -> SweptCategory:
    """Whether the sign of the study's `own` point, by default the last, holds at the others."""
    own = points[-1] if own is None else own
    compared = [
        point for point in points if point is not own and point.sign and _is_large(point, own)
    ]
    same = sum(point.sign == own.sign for point in compared)
    if not own.sign or not compared:
        stability: Stability = "too few to say"
    else:
        stability = "stable" if same == len(compared) else "unstable"
    return SweptCategory(category, points, stability, len(compared), same)


def _is_large(point: SweepPoint, own: SweepPoint) -> bool:
    return all(
        kept >= max(LEAST_LATENTS, LEAST_SHARE * total)
        for kept, total in (
            (point.target_total, own.target_total),
            (point.reference_total, own.reference_total),
        )
    )
