"""The answers whose agreement is measured: of all judges, and of all samples of one judge."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from labeler.agreement import KrippendorffAlpha, as_units, nominal_alpha
from labeler.store.latent_records import current_setting
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

    Labels count under the taxonomy version in force; errors are missing answers.
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
