"""Agreement of several judges, or of several answers of one judge, on categories."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from labeler.store.latents import current_setting
from labeler.store.outcomes import ANSWERS
from labeler.store.schema import (
    Category,
    Comparison,
    Judge,
    JudgeLabel,
    JudgeLabelCategory,
    LabelSample,
    LatentSetMember,
)

N_DRAWS = 2000
MIN_UNITS = 5
"""Fewest latents with two answers or more for an interval."""


@dataclass(frozen=True)
class KrippendorffAlpha:
    """Krippendorff's alpha with its interval; `alpha` is None exactly where `reason` is set."""

    alpha: float | None
    ci_low: float | None
    ci_high: float | None
    n_units: int
    """Latents with at least two answers; only these measure agreement."""
    n_answers: int
    """Answers to these latents."""
    n_raters: int
    n_categories: int
    reason: str | None = None


def nominal_alpha(
    units: Sequence[Sequence[str | None]], seed: int = 0, n_draws: int = N_DRAWS
) -> KrippendorffAlpha:
    """Agreement on units (latents), each with one value per rater, None where one is missing.

    The interval is the percentile bootstrap over units (95 %). Alpha is undefined with fewer than
    two raters, without a unit that two of them answered, and where all answers are the same: then
    no disagreement is expected by chance.
    """
    n_raters = max((len(unit) for unit in units), default=0)
    counts, categories = _counts(units)
    n_units, n_answers = len(counts), int(counts.sum())

    def undefined(reason: str) -> KrippendorffAlpha:
        return KrippendorffAlpha(
            None, None, None, n_units, n_answers, n_raters, len(categories), reason
        )

    if n_raters < 2:
        return undefined("fewer than two judges or samples")
    if n_units == 0:
        return undefined("no latent has two answers")
    if len(categories) < 2:
        return undefined("all answers are the same category")
    alpha = float(_alphas(counts[None])[0])
    low, high = _interval(counts, seed, n_draws)
    return KrippendorffAlpha(alpha, low, high, n_units, n_answers, n_raters, len(categories))


def _counts(units: Iterable[Sequence[str | None]]) -> tuple[NDArray[np.float64], list[str]]:
    """Counts (u, c) of each value for each unit with at least two answers."""
    tallies = [Counter(value for value in unit if value is not None) for unit in units]
    pairable = [tally for tally in tallies if sum(tally.values()) >= 2]
    categories = sorted({value for tally in pairable for value in tally})
    counts = np.array(
        [[tally[value] for value in categories] for tally in pairable], dtype=np.float64
    ).reshape(len(pairable), len(categories))
    return counts, categories


def _alphas(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Alpha (b,) of stacks of units (b, u, c); NaN where no disagreement is expected."""
    answers = counts.sum(axis=2)
    agreeing = (counts * (counts - 1)).sum(axis=2) / (answers - 1)
    total = answers.sum(axis=1)
    observed = 1 - agreeing.sum(axis=1) / total
    by_category = counts.sum(axis=1)
    same = (by_category * (by_category - 1)).sum(axis=1)
    expected = 1 - same / (total * (total - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        result: NDArray[np.float64] = np.where(expected > 0, 1 - observed / expected, np.nan)
    return result


def _interval(
    counts: NDArray[np.float64], seed: int, n_draws: int
) -> tuple[float | None, float | None]:
    if len(counts) < MIN_UNITS or n_draws < 1:
        return None, None
    generator = np.random.default_rng(seed)
    alphas = np.concatenate(
        [
            _alphas(counts[generator.integers(len(counts), size=(len(part), len(counts)))])
            for part in np.array_split(np.arange(n_draws), max(1, n_draws // 200))
        ]
    )
    defined = alphas[~np.isnan(alphas)]
    # Draws without any disagreement are undefined; if they are common, so is the interval.
    if len(defined) < 0.9 * n_draws:
        return None, None
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def as_units(answers: Mapping[int, Mapping[str, str]]) -> list[list[str | None]]:
    """Units in the order of their keys, from each rater's answer."""
    raters = sorted({rater for given in answers.values() for rater in given})
    return [[answers[key].get(rater) for rater in raters] for key in sorted(answers)]


Answers = Mapping[int, Mapping[str, str]]
"""By latent, then by rater: slug of the primary category, none or uninterpretable."""


@dataclass(frozen=True)
class AgreementRow:
    """Agreement of one group of raters on the latents of a comparison."""

    comparison: str
    raters: str
    """`judges`: the label of each judge; `samples of NAME`: the answers of one judge."""
    agreement: KrippendorffAlpha

    @property
    def words(self) -> str:
        """The agreement in a few words."""
        found = self.agreement
        if found.alpha is None:
            return f"agreement of {self.raters} undefined: {found.reason}"
        interval = "" if found.ci_low is None else f" [{found.ci_low:.2f}, {found.ci_high:.2f}]"
        return f"agreement of {self.raters}: alpha {found.alpha:.2f}{interval}"

    @property
    def sentence(self) -> str:
        """The agreement and the number of latents it rests on, for a report."""
        found = self.agreement
        latents = "1 latent" if found.n_units == 1 else f"{found.n_units:,} latents"
        over = f"{latents} with two answers or more, {found.n_raters} raters"
        head = f"Agreement of {self.raters}, Krippendorff's alpha"
        if found.alpha is None:
            return f"{head}: undefined: {found.reason} ({over})."
        if found.ci_low is None or found.ci_high is None:
            return f"{head}: {found.alpha:.2f} ({over}; too few for an interval)."
        interval = f"95% interval {found.ci_low:.2f} to {found.ci_high:.2f}"
        return f"{head}: {found.alpha:.2f} ({interval}; {over})."


def read_agreement(session: Session, comparison: Comparison, seed: int = 0) -> list[AgreementRow]:
    """Agreement of all judges, and of the samples of each judge that was asked several times.

    Labels count under the active taxonomy version; errors are missing answers.
    """
    setting = current_setting(session, comparison.id)
    if setting is None:
        return []
    version_id = setting.taxonomy_version_id
    labels = _labels(session, comparison, version_id)
    rows = [AgreementRow(comparison.name, "judges", nominal_alpha(as_units(labels), seed))]
    for judge_id, name in _sampled_judges(session, version_id):
        answers = _samples(session, comparison, version_id, judge_id)
        found = nominal_alpha(as_units(answers), seed)
        rows.append(AgreementRow(comparison.name, f"samples of {name}", found))
    return rows


def _members(comparison: Comparison) -> Select[int]:
    return select(LatentSetMember.latent_id).where(
        LatentSetMember.latent_set_id.in_((comparison.target_set_id, comparison.reference_set_id))
    )


def _labels(session: Session, comparison: Comparison, version_id: int) -> Answers:
    """The newest label with an answer of each judge."""
    newest = (
        select(func.max(JudgeLabel.id))
        .where(
            JudgeLabel.taxonomy_version_id == version_id,
            JudgeLabel.is_control.is_(False),
            JudgeLabel.outcome.in_(ANSWERS),
            JudgeLabel.latent_id.in_(_members(comparison)),
        )
        .group_by(JudgeLabel.latent_id, JudgeLabel.judge_id)
    )
    query = (
        select(JudgeLabel.latent_id, JudgeLabel.judge_id, JudgeLabel.outcome, Category.slug)
        .outerjoin(
            JudgeLabelCategory,
            (JudgeLabelCategory.judge_label_id == JudgeLabel.id) & (JudgeLabelCategory.rank == 1),
        )
        .outerjoin(Category, Category.id == JudgeLabelCategory.category_id)
        .where(JudgeLabel.id.in_(newest))
    )
    answers: dict[int, dict[str, str]] = defaultdict(dict)
    for latent_id, judge_id, outcome, slug in session.execute(query):
        answers[latent_id][_rater(judge_id)] = slug or outcome
    return answers


def _sampled_judges(session: Session, version_id: int) -> list[tuple[int, str]]:
    query = (
        select(Judge.id, Judge.name)
        .where(
            Judge.id.in_(
                select(LabelSample.judge_id).where(LabelSample.taxonomy_version_id == version_id)
            )
        )
        .order_by(Judge.id)
    )
    return [(row.id, row.name) for row in session.execute(query)]


def _samples(session: Session, comparison: Comparison, version_id: int, judge_id: int) -> Answers:
    """The newest answer of each sample, the judge's label as the sample 0."""
    newest = (
        select(func.max(LabelSample.id))
        .where(
            LabelSample.taxonomy_version_id == version_id,
            LabelSample.judge_id == judge_id,
            LabelSample.outcome.in_(ANSWERS),
            LabelSample.latent_id.in_(_members(comparison)),
        )
        .group_by(LabelSample.latent_id, LabelSample.sample)
    )
    query = (
        select(LabelSample.latent_id, LabelSample.sample, LabelSample.outcome, Category.slug)
        .outerjoin(Category, Category.id == LabelSample.category_id)
        .where(LabelSample.id.in_(newest))
    )
    answers: dict[int, dict[str, str]] = defaultdict(dict)
    for latent_id, sample, outcome, slug in session.execute(query):
        answers[latent_id][f"sample {sample}"] = slug or outcome
    labels = _labels(session, comparison, version_id)
    for latent_id, given in answers.items():
        label = labels.get(latent_id, {}).get(_rater(judge_id))
        if label is not None:
            given["sample 0"] = label
    return answers


def _rater(judge_id: int) -> str:
    return f"judge {judge_id}"
