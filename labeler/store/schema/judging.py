"""Prompts, judges, their calls, and the explanations and labels they gave."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped, mapped_column

from labeler.store.outcomes import LABEL_OUTCOMES
from labeler.store.schema.base import Base, FreeText, OneOf, UtcDateTime, utc_now

IMPORT = "import"
"""Kind of a judge that stands for another tool or for a file: nobody can ask it."""
CALL_STAGES = (
    "explain", "categorize", "detect", "fuzz", "name", "merge", "behaviour", "experiment", "revise",
)  # fmt: skip
CLAIM_STATUSES = ("open", "claimed", "done", "failed")
SCORE_METHODS = ("detection", "fuzzing")
TEST_VERDICTS = ("holds", "revised", "refuted")
CHECK_VERDICTS = ("usable", "weak", "refused")


class Prompt(Base):
    """The text of a prompt, stored by hash."""

    __tablename__ = "prompt"
    __table_args__ = (UniqueConstraint("sha256"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(200))
    text: Mapped[str] = mapped_column(FreeText)


class Judge(Base):
    """A judge: name, model, kind of endpoint, and parameters."""

    __tablename__ = "judge"
    __table_args__ = (UniqueConstraint("name", "model", "endpoint_kind", "params_sha256"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    model: Mapped[str] = mapped_column(String(300))
    endpoint_kind: Mapped[str] = mapped_column(String(32))
    params: Mapped[dict[str, Any]] = mapped_column(JSON)
    params_sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)

    @hybrid_property
    def is_import(self) -> bool:
        """Whether the row stands for another tool or for a file."""
        return self.endpoint_kind == IMPORT


class JudgeParameters(Base):
    """Request parameters of a judge's server, found by its first request; the newest row counts.

    No part of the judge's identity, so that what is found out makes no answer another judge's.
    """

    __tablename__ = "judge_parameters"
    __table_args__ = (Index(None, "judge_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    judge_id: Mapped[int] = mapped_column(ForeignKey("judge.id"))
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"))
    parameters: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class JudgeCheck(Base):
    """What `difflens judge check` measured of a judge; the newest row counts."""

    __tablename__ = "judge_check"
    __table_args__ = (Index(None, "judge_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    judge_id: Mapped[int] = mapped_column(ForeignKey("judge.id"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    prompts_sha256: Mapped[str] = mapped_column(String(64))
    """Hash of the prompts that were checked with the judge."""
    n_latents: Mapped[int]
    """Labelled latents of the balanced set."""
    n_answered: Mapped[int]
    """Those of them that were explained and categorised."""
    n_right: Mapped[int]
    top_answer: Mapped[str | None] = mapped_column(String(200))
    """The answer that was given most often."""
    n_top_answer: Mapped[int]
    n_content_free: Mapped[int]
    """Questions with evidence that says nothing."""
    n_content_free_assigned: Mapped[int]
    """Those that were put into a category all the same."""
    n_reordered: Mapped[int]
    """Latents that were asked about again with the categories in another order."""
    n_same_answer: Mapped[int]
    """Those that got the same answer."""
    calibration_error: Mapped[float | None]
    """Expected calibration error of the confidences; NULL where no category was assigned."""
    mean_confidence: Mapped[float | None]
    puzzle_accuracy: Mapped[float | None]
    """Share of true explanations of puzzles that were ranked above false ones; NULL = not asked."""
    verdict: Mapped[str] = mapped_column(OneOf(CHECK_VERDICTS))
    words: Mapped[str] = mapped_column(FreeText)
    """What its labels are worth, in one line."""


class JudgeCall(Base):
    """One finished call, with the judge's raw answer."""

    __tablename__ = "judge_call"
    __table_args__ = (
        UniqueConstraint("judge_id", "request_sha256", "sample", "attempt"),
        Index(None, "latent_id"),
        Index(None, "run_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    judge_id: Mapped[int] = mapped_column(ForeignKey("judge.id"))
    request_sha256: Mapped[str] = mapped_column(String(64))
    sample: Mapped[int]
    attempt: Mapped[int]
    stage: Mapped[str] = mapped_column(OneOf(CALL_STAGES))
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"))
    latent_id: Mapped[int | None] = mapped_column(ForeignKey("latent.id"))
    prompt_id: Mapped[int | None] = mapped_column(ForeignKey("prompt.id"))
    status: Mapped[str] = mapped_column(String(32))
    raw: Mapped[str | None] = mapped_column(FreeText)
    parsed: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    error: Mapped[str | None] = mapped_column(FreeText)
    latency_s: Mapped[float | None]
    prompt_tokens: Mapped[int | None]
    """As the server reports; NULL where it does not."""
    completion_tokens: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    estimated_prompt_tokens: Mapped[int | None]
    """What counts towards a limit where the server reports nothing."""
    estimated_completion_tokens: Mapped[int | None]
    options: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    """`categorize`: slugs of the categories with definitions, in the order in which they were
    shown; NULL where the judge was shown all in the taxonomy's order."""


class WorkItem(Base):
    """A worker's claim on a request; rows of this table are updated and deleted."""

    __tablename__ = "work_item"
    __table_args__ = (UniqueConstraint("stage", "item_key"), Index(None, "run_id", "status"))

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"))
    stage: Mapped[str] = mapped_column(String(16))
    item_key: Mapped[str] = mapped_column(String(200))
    latent_id: Mapped[int | None] = mapped_column(ForeignKey("latent.id"))
    status: Mapped[str] = mapped_column(OneOf(CLAIM_STATUSES), default="open")
    claimed_by: Mapped[str | None] = mapped_column(String(200))
    claimed_until: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Explanation(Base):
    """A latent's explanation by a judge or an imported file; never changed."""

    __tablename__ = "explanation"
    __table_args__ = (Index(None, "latent_id", "judge_id"), Index(None, "run_id"))

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"))
    latent_id: Mapped[int] = mapped_column(ForeignKey("latent.id"))
    judge_id: Mapped[int] = mapped_column(ForeignKey("judge.id"))
    judge_call_id: Mapped[int | None] = mapped_column(ForeignKey("judge_call.id"))
    text: Mapped[str] = mapped_column(FreeText)
    interpretable: Mapped[bool] = mapped_column(default=True)
    confidence: Mapped[float | None]
    is_control: Mapped[bool] = mapped_column(default=False)
    """True for another latent's explanation, added as a control of the judge."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class ExplanationScore(Base):
    """How well an explanation predicts held-out evidence."""

    __tablename__ = "explanation_score"
    __table_args__ = (Index(None, "explanation_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"))
    explanation_id: Mapped[int] = mapped_column(ForeignKey("explanation.id"))
    judge_id: Mapped[int] = mapped_column(ForeignKey("judge.id"))
    method: Mapped[str] = mapped_column(OneOf(SCORE_METHODS))
    balanced_accuracy: Mapped[float | None]
    ci_low: Mapped[float | None]
    ci_high: Mapped[float | None]
    n_asked: Mapped[int]
    """Examples that the judge was asked about."""
    n_parsed: Mapped[int]
    """Examples with a usable answer; the counts below are of these."""
    n_positive: Mapped[int | None]
    n_negative: Mapped[int | None]
    n_true_positive: Mapped[int | None]
    n_true_negative: Mapped[int | None]
    reason: Mapped[str | None] = mapped_column(FreeText)
    """Why the balanced accuracy is undefined."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class ExplanationTest(Base):
    """An explanation tested by experiment: the judge wrote texts, the crosscoder measured them."""

    __tablename__ = "explanation_test"
    __table_args__ = (Index(None, "explanation_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"))
    explanation_id: Mapped[int] = mapped_column(ForeignKey("explanation.id"))
    """The explanation that came out of all rounds; its text is that of the chosen one."""
    judge_id: Mapped[int] = mapped_column(ForeignKey("judge.id"))
    judge_call_id: Mapped[int] = mapped_column(ForeignKey("judge_call.id"))
    """The call that wrote the texts."""
    round: Mapped[int]
    """Counts from 0, the test of the first explanation."""
    text: Mapped[str] = mapped_column(FreeText)
    """The explanation that was tested in this round."""
    is_chosen: Mapped[bool]
    verdict: Mapped[str] = mapped_column(OneOf(TEST_VERDICTS))
    """`revised`: it failed and another was tested; `refuted`: it failed in the last round."""
    threshold: Mapped[float]
    """Activation above which a text counts as activating the latent."""
    n_meant: Mapped[int]
    """Texts that were meant to activate it and could be read."""
    n_meant_active: Mapped[int]
    n_others: Mapped[int]
    n_others_active: Mapped[int]
    responsiveness: Mapped[float | None]
    """n_meant_active / n_meant."""
    purity: Mapped[float | None]
    """n_meant_active / (n_meant_active + n_others_active); NULL where nothing activated it."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class ExplanationTestText(Base):
    """A text that the judge wrote for a test, with the latent's largest activation on it."""

    __tablename__ = "explanation_test_text"

    explanation_test_id: Mapped[int] = mapped_column(
        ForeignKey("explanation_test.id"), primary_key=True
    )
    position: Mapped[int] = mapped_column(primary_key=True)
    is_meant: Mapped[bool]
    """Whether it was meant to activate the latent."""
    role: Mapped[str] = mapped_column(String(16))
    before: Mapped[str] = mapped_column(FreeText)
    """The user's message before an assistant's text; empty without one."""
    text: Mapped[str] = mapped_column(FreeText)
    activation: Mapped[float | None]
    """NULL where no token of it takes part, as in a text of very few words."""


class JudgeLabel(Base):
    """A judge's outcome for one latent under one taxonomy version; never changed."""

    __tablename__ = "judge_label"
    __table_args__ = (
        Index(None, "latent_id", "taxonomy_version_id", "judge_id"),
        Index(None, "run_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"))
    latent_id: Mapped[int] = mapped_column(ForeignKey("latent.id"))
    judge_id: Mapped[int] = mapped_column(ForeignKey("judge.id"))
    taxonomy_version_id: Mapped[int] = mapped_column(ForeignKey("taxonomy_version.id"))
    explanation_id: Mapped[int | None] = mapped_column(ForeignKey("explanation.id"))
    judge_call_id: Mapped[int | None] = mapped_column(ForeignKey("judge_call.id"))
    carried_from_id: Mapped[int | None] = mapped_column(ForeignKey("judge_label.id"))
    """The same label under an earlier taxonomy version."""
    outcome: Mapped[str] = mapped_column(OneOf(LABEL_OUTCOMES))
    confidence: Mapped[float | None]
    is_control: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class JudgeLabelCategory(Base):
    """A category of a judge label; rank 1 is the primary one."""

    __tablename__ = "judge_label_category"
    __table_args__ = (UniqueConstraint("judge_label_id", "category_id"),)

    judge_label_id: Mapped[int] = mapped_column(ForeignKey("judge_label.id"), primary_key=True)
    rank: Mapped[int] = mapped_column(primary_key=True)
    category_id: Mapped[int] = mapped_column(ForeignKey("category.id"))
    confidence: Mapped[float | None]
    quote: Mapped[str | None] = mapped_column(FreeText)
    """Quote from the evidence or the explanation; an invented one is only in the call."""
    quote_found: Mapped[bool | None]
    """False where the quote is in neither; NULL without a quote."""


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
    """A latent shared by both models, matched in density with a specific one.

    The rows of the newest run of a comparison are active.
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
    """A judge's answer to a repeated categorisation, used for agreement only."""

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
    """Counts from 1; sample 0 is the judge label itself."""
    outcome: Mapped[str] = mapped_column(OneOf(LABEL_OUTCOMES))
    category_id: Mapped[int | None] = mapped_column(ForeignKey("category.id"))
    """Primary category, where the outcome is assigned."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
