"""Decisions of reviewers, the effective labels they lead to, and what a report finds.

That is the statistics of a change, its correction for judge errors, threshold sweeps, null runs.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    String,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from crosscoder.config import SIDES
from labeler.store.outcomes import EFFECTIVE_OUTCOMES
from labeler.store.schema.base import Base, FreeText, OneOf, UtcDateTime, new_act, utc_now

REVIEW_ACTIONS = ("accept", "set", "none", "uninterpretable", "skip", "undo")
SELECTIONS = ("random", "uncertain", "manual")
SOURCES = ("human", "judge", "import")
COUNTINGS = ("primary", "any")
DENOMINATORS = ("labelled", "assigned", "isolated")
VERDICTS = ("up", "down", "too few to say", "no evidence")
ESTIMANDS = ("superpopulation", "finite_population")
STABILITIES = ("stable", "unstable", "too few to say")
NULL_KINDS = ("seed", "permuted", "noise", "scrambled", "rounded", "random")


class ReviewEvent(Base):
    """One decision in a reviewer's stream for a latent and a taxonomy version; never changed."""

    __tablename__ = "review_event"
    __table_args__ = (
        UniqueConstraint(
            "latent_id",
            "taxonomy_version_id",
            "reviewer",
            "revision",
            name="uq_review_event_stream_revision",
        ),
        CheckConstraint("revision >= 1", name="revision_positive"),
        CheckConstraint("restores_event_id IS NULL OR action = 'undo'", name="restores_by_undo"),
        CheckConstraint(
            "action <> 'accept' OR based_on_judge_label_id IS NOT NULL", name="accept_names_label"
        ),
        CheckConstraint(
            "inclusion_prob IS NULL OR (inclusion_prob > 0 AND inclusion_prob <= 1)",
            name="inclusion_prob",
        ),
        Index(None, "act"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    latent_id: Mapped[int] = mapped_column(ForeignKey("latent.id"))
    taxonomy_version_id: Mapped[int] = mapped_column(ForeignKey("taxonomy_version.id"))
    reviewer: Mapped[str] = mapped_column(String(200))
    """Whose stream it is; `adjudicated` is shared by all who settle conflicts."""
    entered_by: Mapped[str | None] = mapped_column(String(200))
    """Who decided in a shared stream; NULL = the reviewer."""
    revision: Mapped[int]
    act: Mapped[str] = mapped_column(String(32), default=new_act)
    """Shared by the decisions that were recorded, and are undone, together."""
    action: Mapped[str] = mapped_column(OneOf(REVIEW_ACTIONS))
    explanation_text: Mapped[str | None] = mapped_column(FreeText)
    based_on_judge_label_id: Mapped[int | None] = mapped_column(ForeignKey("judge_label.id"))
    restores_event_id: Mapped[int | None] = mapped_column(ForeignKey("review_event.id"))
    """`undo`: the decision that stands again; NULL = none of this reviewer's."""
    carried_from_id: Mapped[int | None] = mapped_column(ForeignKey("review_event.id"))
    """The same decision under an earlier taxonomy version."""
    reason: Mapped[str | None] = mapped_column(String(64))
    note: Mapped[str | None] = mapped_column(FreeText)
    was_blind: Mapped[bool] = mapped_column(default=False)
    selection: Mapped[str] = mapped_column(OneOf(SELECTIONS), default="manual")
    inclusion_prob: Mapped[float | None]
    elapsed_ms: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class ReviewEventCategory(Base):
    """A category of a decision; rank 1 is the primary one."""

    __tablename__ = "review_event_category"
    __table_args__ = (UniqueConstraint("review_event_id", "category_id"),)

    review_event_id: Mapped[int] = mapped_column(ForeignKey("review_event.id"), primary_key=True)
    rank: Mapped[int] = mapped_column(primary_key=True)
    category_id: Mapped[int] = mapped_column(ForeignKey("category.id"))


class EffectiveLabel(Base):
    """The active label of a latent in a comparison, derived and kept current."""

    __tablename__ = "effective_label"
    __table_args__ = (Index(None, "latent_id"),)

    comparison_id: Mapped[int] = mapped_column(ForeignKey("comparison.id"), primary_key=True)
    side: Mapped[str] = mapped_column(OneOf(SIDES), primary_key=True)
    """Part of the key: with `overlap = "keep"` a latent may lie on both sides."""
    latent_id: Mapped[int] = mapped_column(ForeignKey("latent.id"), primary_key=True)
    outcome: Mapped[str] = mapped_column(OneOf(EFFECTIVE_OUTCOMES))
    source: Mapped[str | None] = mapped_column(OneOf(SOURCES))
    """NULL where nobody has labelled the latent."""
    taxonomy_version_id: Mapped[int | None] = mapped_column(ForeignKey("taxonomy_version.id"))
    judge_label_id: Mapped[int | None] = mapped_column(ForeignKey("judge_label.id"))
    review_event_id: Mapped[int | None] = mapped_column(ForeignKey("review_event.id"))
    explanation_id: Mapped[int | None] = mapped_column(ForeignKey("explanation.id"))


class EffectiveLabelCategory(Base):
    """A category of an effective label; rank 1 is the primary one."""

    __tablename__ = "effective_label_category"
    __table_args__ = (
        ForeignKeyConstraint(
            ["comparison_id", "side", "latent_id"],
            [
                "effective_label.comparison_id",
                "effective_label.side",
                "effective_label.latent_id",
            ],
            name="fk_effective_label_category_label",
        ),
        Index(None, "category_id"),
    )

    comparison_id: Mapped[int] = mapped_column(primary_key=True)
    side: Mapped[str] = mapped_column(OneOf(SIDES), primary_key=True)
    latent_id: Mapped[int] = mapped_column(primary_key=True)
    rank: Mapped[int] = mapped_column(primary_key=True)
    category_id: Mapped[int] = mapped_column(ForeignKey("category.id"))
    confidence: Mapped[float | None]


class CategoryChangeStatistic(Base):
    """One category's change as a report computed it; ci_* in percent, an infinite bound NULL."""

    __tablename__ = "category_change_statistic"
    __table_args__ = (
        UniqueConstraint(
            "report_run_id",
            "comparison_id",
            "category",
            "counting",
            "weighting",
            "denominator",
            name="uq_category_change_statistic_row",
        ),
        ForeignKeyConstraint(
            ["taxonomy_version_id"],
            ["taxonomy_version.id"],
            name="fk_category_change_statistic_version",
        ),
        Index(None, "comparison_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    report_run_id: Mapped[int] = mapped_column(ForeignKey("run.id"))
    computed_at: Mapped[datetime] = mapped_column(UtcDateTime)
    """When the counts were read."""
    comparison_id: Mapped[int] = mapped_column(ForeignKey("comparison.id"))
    taxonomy_version_id: Mapped[int]
    category: Mapped[str] = mapped_column(String(200))
    parent: Mapped[str | None] = mapped_column(String(200))
    level: Mapped[int]
    counting: Mapped[str] = mapped_column(OneOf(COUNTINGS), default="primary")
    weighting: Mapped[str] = mapped_column(String(32), default="none")
    denominator: Mapped[str] = mapped_column(OneOf(DENOMINATORS), default="labelled")
    target_count: Mapped[int]
    target_total: Mapped[int]
    reference_count: Mapped[int]
    reference_total: Mapped[int]
    target_share: Mapped[float | None]
    target_share_low: Mapped[float | None]
    target_share_high: Mapped[float | None]
    reference_share: Mapped[float | None]
    reference_share_low: Mapped[float | None]
    reference_share_high: Mapped[float | None]
    percent_change: Mapped[float | None]
    ci_low: Mapped[float | None]
    ci_high: Mapped[float | None]
    difference_points: Mapped[float | None]
    difference_points_low: Mapped[float | None]
    difference_points_high: Mapped[float | None]
    p_value: Mapped[float | None]
    q_value: Mapped[float | None]
    verdict: Mapped[str] = mapped_column(OneOf(VERDICTS, 32))
    printed_change: Mapped[str] = mapped_column(String(32))
    situation: Mapped[str] = mapped_column(String(32))
    """Situation of the counts: counted, on neither side, only on one side, ..."""
    test: Mapped[str] = mapped_column(String(16))
    """fisher, boschloo or score."""
    target_effective: Mapped[float | None]
    """Number of equally weighted latents with the same uncertainty as the weighted ones."""
    reference_effective: Mapped[float | None]
    detectable_rise: Mapped[float | None]
    """Smallest rise in percent that these counts could have shown; NULL = none."""
    detectable_fall: Mapped[float | None]
    is_main: Mapped[bool]
    """True for the report's main way of counting."""
    family_p: Mapped[float | None]
    """p of the randomisation over documents that bounds one false call in the whole table."""
    mean_shift: Mapped[float | None]
    """Mean strength shift of all labelled latents of the category, on a side or not."""
    mean_shift_low: Mapped[float | None]
    mean_shift_high: Mapped[float | None]
    mean_shift_q: Mapped[float | None]
    n_shifted: Mapped[int | None]
    n_documents: Mapped[int | None]
    detectable_points: Mapped[float | None]
    documents_needed: Mapped[int | None]
    relative_shift: Mapped[float | None]
    """Mean shift less that of all other labelled latents."""
    relative_shift_low: Mapped[float | None]
    relative_shift_high: Mapped[float | None]
    relative_shift_q: Mapped[float | None]
    weighted_shift: Mapped[float | None]
    """As relative_shift, each latent weighted by the sum of its squared activations."""
    scrambled_low: Mapped[float | None]
    """Bounds of the weighted shift in 95 % of scrambled fine-tunes."""
    scrambled_high: Mapped[float | None]
    weighted_shift_q: Mapped[float | None]
    n_scrambled: Mapped[int | None]
    over_seeds: Mapped[int | None]
    """Seeds that the row is over, their counts added up; NULL = one."""
    n_seeds_alike: Mapped[int | None]
    """Seeds whose own difference of shares has the row's sign."""
    n_shifts_alike: Mapped[int | None]
    """Seeds whose own relative shift has the row's sign."""


class SeedChange(Base):
    """One category's change by one seed alone, beside the report's change over seeds."""

    __tablename__ = "seed_change"
    __table_args__ = (
        UniqueConstraint(
            "report_run_id", "comparison_id", "seed", "category", name="uq_seed_change"
        ),
        Index(None, "comparison_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    report_run_id: Mapped[int] = mapped_column(ForeignKey("run.id"))
    comparison_id: Mapped[int] = mapped_column(ForeignKey("comparison.id"))
    """The comparison by the first seed."""
    seed: Mapped[int]
    """Number of the seed; 0 = the one that pages show."""
    category: Mapped[str] = mapped_column(String(200))
    parent: Mapped[str | None] = mapped_column(String(200))
    level: Mapped[int]
    target_count: Mapped[int]
    target_total: Mapped[int]
    reference_count: Mapped[int]
    reference_total: Mapped[int]
    percent_change: Mapped[float | None]
    p_value: Mapped[float | None]
    q_value: Mapped[float | None]
    verdict: Mapped[str] = mapped_column(OneOf(VERDICTS, 32))
    n_shifted: Mapped[int | None]
    relative_shift: Mapped[float | None]
    relative_shift_q: Mapped[float | None]


class AuditDraw(Base):
    """A simple random sample, without replacement, of one side; the newest one is active."""

    __tablename__ = "audit_draw"
    __table_args__ = (
        CheckConstraint("n_drawn >= 1 AND n_drawn <= n_population", name="drawn_of_population"),
        Index(None, "comparison_id", "side"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    comparison_id: Mapped[int] = mapped_column(ForeignKey("comparison.id"))
    side: Mapped[str] = mapped_column(OneOf(SIDES))
    seed: Mapped[int]
    n_drawn: Mapped[int]
    n_population: Mapped[int]
    """Latents of the side at that moment: the inclusion probability is n_drawn / n_population."""
    drawn_by: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class AuditMember(Base):
    """A latent of a draw; `position` is its place in the random order."""

    __tablename__ = "audit_member"
    __table_args__ = (UniqueConstraint("audit_draw_id", "position"), Index(None, "latent_id"))

    audit_draw_id: Mapped[int] = mapped_column(ForeignKey("audit_draw.id"), primary_key=True)
    latent_id: Mapped[int] = mapped_column(ForeignKey("latent.id"), primary_key=True)
    position: Mapped[int]


class JudgeCorrection(Base):
    """A report's correction of judge errors in a comparison, or the reason for none."""

    __tablename__ = "judge_correction"
    __table_args__ = (
        UniqueConstraint("report_run_id", "comparison_id"),
        Index(None, "comparison_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    report_run_id: Mapped[int] = mapped_column(ForeignKey("run.id"))
    comparison_id: Mapped[int] = mapped_column(ForeignKey("comparison.id"))
    computed_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    estimand: Mapped[str] = mapped_column(OneOf(ESTIMANDS, length=20))
    denominator: Mapped[str] = mapped_column(OneOf(DENOMINATORS))
    refusal: Mapped[str | None] = mapped_column(FreeText)
    """Why nothing was corrected; NULL where it was."""
    target_reviewed: Mapped[int]
    """Latents of the side reviewed blind from a random draw."""
    target_judged: Mapped[int]
    """Latents of the side with a label of the active judge."""
    target_is_whole: Mapped[bool]
    """All of them have a reviewer's decision, so nothing needs correction."""
    reference_reviewed: Mapped[int]
    reference_judged: Mapped[int]
    reference_is_whole: Mapped[bool]
    categories: Mapped[list[CategoryCorrection]] = relationship(order_by="CategoryCorrection.id")


class CategoryCorrection(Base):
    """One category's change without the judge's errors; ci_* in percent, NULL = infinite."""

    __tablename__ = "category_correction"
    __table_args__ = (UniqueConstraint("judge_correction_id", "category"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    judge_correction_id: Mapped[int] = mapped_column(ForeignKey("judge_correction.id"))
    category: Mapped[str] = mapped_column(String(200))
    parent: Mapped[str | None] = mapped_column(String(200))
    level: Mapped[int]
    target_share: Mapped[float]
    target_share_low: Mapped[float]
    target_share_high: Mapped[float]
    reference_share: Mapped[float]
    reference_share_low: Mapped[float]
    reference_share_high: Mapped[float]
    target_judge_share: Mapped[float | None]
    """Share by the judge's labels alone."""
    reference_judge_share: Mapped[float | None]
    percent_change: Mapped[float | None]
    ci_low: Mapped[float | None]
    ci_high: Mapped[float | None]
    p_value: Mapped[float]
    q_value: Mapped[float]
    target_hits: Mapped[int]
    """Reviewed latents of the category that the judge assigns to it too."""
    target_positives: Mapped[int]
    """Reviewed latents of the category."""
    target_rejections: Mapped[int]
    """Reviewed latents outside the category that the judge does not assign to it either."""
    target_negatives: Mapped[int]
    reference_hits: Mapped[int]
    reference_positives: Mapped[int]
    reference_rejections: Mapped[int]
    reference_negatives: Mapped[int]
    alike_p: Mapped[float]
    """p that the judge's error rates are equal on both sides."""
    alike_q: Mapped[float]
    target_rogan_gladen: Mapped[float | None]
    reference_rogan_gladen: Mapped[float | None]


class CategorySweep(Base):
    """One category's change at one isolation threshold; `threshold` rises to the study's own."""

    __tablename__ = "category_sweep"
    __table_args__ = (
        UniqueConstraint(
            "report_run_id",
            "comparison_id",
            "category",
            "threshold",
            name="uq_category_sweep_point",
        ),
        Index(None, "comparison_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    report_run_id: Mapped[int] = mapped_column(ForeignKey("run.id"))
    comparison_id: Mapped[int] = mapped_column(ForeignKey("comparison.id"))
    computed_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    category: Mapped[str] = mapped_column(String(200))
    swept: Mapped[str] = mapped_column(String(64))
    """The quantity that the threshold applies to."""
    threshold: Mapped[float]
    target_count: Mapped[int]
    target_total: Mapped[int]
    reference_count: Mapped[int]
    reference_total: Mapped[int]
    percent_change: Mapped[float | None]
    ci_low: Mapped[float | None]
    ci_high: Mapped[float | None]
    stability: Mapped[str] = mapped_column(OneOf(STABILITIES))
    """Of the category over all thresholds."""


class NullResult(Base):
    """One null run of a comparison; the newest of each kind counts."""

    __tablename__ = "null_result"
    __table_args__ = (Index(None, "comparison_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    comparison_id: Mapped[int] = mapped_column(ForeignKey("comparison.id"))
    computed_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    code_version: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(OneOf(NULL_KINDS))
    title: Mapped[str] = mapped_column(FreeText)
    settings: Mapped[dict[str, Any]] = mapped_column(JSON)
    """`[null_runs]` and the study's seed."""
    n_draws: Mapped[int]
    n_called: Mapped[int]
    """Verdicts up or down over all draws and categories; for `noise`, latents isolated."""
    n_tested: Mapped[int]
    """Categories tested over all draws; for `noise`, latents eligible."""
    n_target: Mapped[int | None]
    """Latents isolated on the target's side, of a null run that is a study; so are all below."""
    n_reference: Mapped[int | None]
    n_shifts_called: Mapped[int | None]
    """Mean shifts against the rest that are distinguishable from zero, groups left out."""
    n_shifts_tested: Mapped[int | None]
    score_method: Mapped[str | None] = mapped_column(String(16))
    """Of the explanations' scores: detection or fuzzing."""
    own_minus_shuffled: Mapped[float | None]
    """Mean score of the explanations less that of shuffled ones, with its interval."""
    own_minus_shuffled_low: Mapped[float | None]
    own_minus_shuffled_high: Mapped[float | None]
    restored: Mapped[float | None]
    """Share of the output gap that the latents of the target's side restore."""


class NullResultChange(Base):
    """One category of a null run; percentages, NULL where undefined or infinite."""

    __tablename__ = "null_result_change"
    __table_args__ = (UniqueConstraint("null_result_id", "category"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    null_result_id: Mapped[int] = mapped_column(ForeignKey("null_result.id"))
    category: Mapped[str] = mapped_column(String(200))
    low: Mapped[float | None]
    high: Mapped[float | None]
    share_as_far: Mapped[float | None]
