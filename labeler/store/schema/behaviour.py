"""What the models answered to held-out prompts, how it was classified, and the change it shows."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from labeler.store.outcomes import LABEL_OUTCOMES
from labeler.store.schema.base import Base, FreeText, OneOf, UtcDateTime, utc_now
from labeler.store.schema.results import VERDICTS

UNANSWERED = "unanswered"
"""The model gave no answer, so there is nothing to classify."""
BEHAVIOUR_OUTCOMES = (*LABEL_OUTCOMES, UNANSWERED)
"""`assigned`: the answer shows the category's behaviour, `none`: it does not; the rest as of a
latent."""
CLASSIFIERS = ("check", "judge", "nobody")


class BehaviourAnswer(Base):
    """One answer of one model to one held-out prompt; made once, whatever run asks for it."""

    __tablename__ = "behaviour_answer"
    __table_args__ = (UniqueConstraint("answer_key"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    answer_key: Mapped[str] = mapped_column(String(64))
    """Hash of the model, the prompt, the settings and the sample's number."""
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"))
    model: Mapped[str] = mapped_column(String(200))
    prompt_id: Mapped[str] = mapped_column(String(300))
    sample: Mapped[int]
    prompt: Mapped[str] = mapped_column(FreeText)
    """The user's last words."""
    text: Mapped[str | None] = mapped_column(FreeText)
    """NULL where the model gave no answer."""
    is_finished: Mapped[bool]
    """False where the answer was cut at max_new_tokens."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class BehaviourLabel(Base):
    """Whether an answer shows the behaviour of one category, as one run found."""

    __tablename__ = "behaviour_label"
    __table_args__ = (
        UniqueConstraint("run_id", "behaviour_answer_id", "category"),
        Index(None, "behaviour_answer_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"))
    behaviour_answer_id: Mapped[int] = mapped_column(ForeignKey("behaviour_answer.id"))
    category: Mapped[str] = mapped_column(String(200))
    outcome: Mapped[str] = mapped_column(OneOf(BEHAVIOUR_OUTCOMES))
    classified_by: Mapped[str] = mapped_column(OneOf(CLASSIFIERS))
    reason: Mapped[str | None] = mapped_column(FreeText)
    """The check that was applied, or why there is no answer to the question."""
    judge_call_id: Mapped[int | None] = mapped_column(ForeignKey("judge_call.id"))


class CategoryBehaviour(Base):
    """Paired change of one category's behaviour over the prompts; NULL = undefined."""

    __tablename__ = "category_behaviour"
    __table_args__ = (
        UniqueConstraint("run_id", "comparison_id", "category"),
        Index(None, "comparison_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"))
    comparison_id: Mapped[int] = mapped_column(ForeignKey("comparison.id"))
    taxonomy_version_id: Mapped[int] = mapped_column(ForeignKey("taxonomy_version.id"))
    target_model: Mapped[str] = mapped_column(String(200))
    reference_model: Mapped[str] = mapped_column(String(200))
    category: Mapped[str] = mapped_column(String(200))
    n_prompts: Mapped[int]
    """Prompts of which every answer of both models is classified; only these count."""
    n_left_out: Mapped[int]
    n_samples: Mapped[int]
    n_more: Mapped[int]
    """Prompts on which the target shows it in more answers than the reference."""
    n_less: Mapped[int]
    target_share: Mapped[float | None]
    reference_share: Mapped[float | None]
    difference_points: Mapped[float | None]
    difference_low: Mapped[float | None]
    difference_high: Mapped[float | None]
    p_value: Mapped[float | None]
    q_value: Mapped[float | None]
    verdict: Mapped[str] = mapped_column(OneOf(VERDICTS, 32))
