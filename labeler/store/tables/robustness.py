"""Robustness results of a report: correction of judge errors, threshold sweeps, null runs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from labeler.store.tables.base import Base, FreeText, OneOf, UtcDateTime, utc_now
from labeler.store.tables.review import DENOMINATORS

ESTIMANDS = ("superpopulation", "finite_population")
STABILITIES = ("stable", "unstable", "too few to say")


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


NULL_KINDS = ("seed", "permuted", "noise")


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
