"""What measures the judge: calls behind a score, shuffled explanations, control latents, samples.

None of it is read by the rule of the effective label.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from labeler.store.outcomes import LABEL_OUTCOMES
from labeler.store.tables.base import Base, OneOf, UtcDateTime, utc_now


class ScoreCall(Base):
    """A call whose answer a score was counted from."""

    __tablename__ = "score_call"
    __table_args__ = (Index(None, "judge_call_id"),)

    explanation_score_id: Mapped[int] = mapped_column(
        ForeignKey("explanation_score.id"), primary_key=True
    )
    judge_call_id: Mapped[int] = mapped_column(ForeignKey("judge_call.id"), primary_key=True)


class ShuffledExplanation(Base):
    """Where the text of a control explanation came from: another latent's explanation."""

    __tablename__ = "shuffled_explanation"
    __table_args__ = (Index(None, "source_explanation_id"),)

    explanation_id: Mapped[int] = mapped_column(ForeignKey("explanation.id"), primary_key=True)
    source_explanation_id: Mapped[int] = mapped_column(ForeignKey("explanation.id"))


class ControlLatent(Base):
    """A latent that is specific to no side, as dense as the specific one it is matched with.

    The rows of the newest run of a comparison are in force.
    """

    __tablename__ = "control_latent"
    __table_args__ = (
        UniqueConstraint("comparison_id", "run_id", "latent_id"),
        Index(None, "latent_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"))
    comparison_id: Mapped[int] = mapped_column(ForeignKey("comparison.id"))
    latent_id: Mapped[int] = mapped_column(ForeignKey("latent.id"))
    matched_latent_id: Mapped[int] = mapped_column(ForeignKey("latent.id"))


class LabelSample(Base):
    """A further answer of a judge to the same categorisation: it measures agreement, no more."""

    __tablename__ = "label_sample"
    __table_args__ = (
        UniqueConstraint(
            "latent_id",
            "judge_id",
            "taxonomy_version_id",
            "explanation_id",
            "sample",
            "judge_call_id",
            name="uq_label_sample_answer",
        ),
        Index(None, "latent_id", "taxonomy_version_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"))
    latent_id: Mapped[int] = mapped_column(ForeignKey("latent.id"))
    judge_id: Mapped[int] = mapped_column(ForeignKey("judge.id"))
    taxonomy_version_id: Mapped[int] = mapped_column(ForeignKey("taxonomy_version.id"))
    explanation_id: Mapped[int] = mapped_column(ForeignKey("explanation.id"))
    judge_call_id: Mapped[int] = mapped_column(ForeignKey("judge_call.id"))
    sample: Mapped[int]
    """From 1; the answer 0 is the judge label itself."""
    outcome: Mapped[str] = mapped_column(OneOf(LABEL_OUTCOMES))
    category_id: Mapped[int | None] = mapped_column(ForeignKey("category.id"))
    """Primary category, where the outcome is assigned."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
