"""What latents and sets of them do to the output: the results of the stage `effect`."""

from __future__ import annotations

from sqlalchemy import ForeignKey, ForeignKeyConstraint, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from labeler.store.schema.base import Base, OneOf

SET_KINDS = ("category", "side", "top", "all")
"""A category's latents, those of a side, the top ones by a measure, or all (or the constant)."""


class LatentEffect(Base):
    """First-order effect of one latent on the output gap of an ordered pair of models."""

    __tablename__ = "latent_effect"
    __table_args__ = (
        UniqueConstraint(
            "latent_id", "target_model_id", "reference_model_id", name="uq_latent_effect_pair"
        ),
        ForeignKeyConstraint(
            ["target_model_id"], ["subject_model.id"], name="fk_latent_effect_target"
        ),
        ForeignKeyConstraint(
            ["reference_model_id"], ["subject_model.id"], name="fk_latent_effect_reference"
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"))
    latent_id: Mapped[int] = mapped_column(ForeignKey("latent.id"))
    target_model_id: Mapped[int]
    reference_model_id: Mapped[int]
    attribution: Mapped[float | None]
    """Share of the gap that it closes by first order; NULL where there is no gap."""
    attribution_low: Mapped[float | None]
    attribution_high: Mapped[float | None]
    magnitude: Mapped[float]
    """Share of all latents' sum of f^2 ||d^target - d^reference||^2."""
    rank: Mapped[int]
    """Place among the latents that fire in the text, largest attribution first."""
    equivalence: Mapped[float | None]
    """Correlation over documents of what its ablation does to the outputs of the two models; NULL
    where it was not ablated on its own, or fires in too few documents."""


class CategoryEffect(Base):
    """Effect of a set of latents in a comparison, in one direction and over one kind of tokens."""

    __tablename__ = "category_effect"
    __table_args__ = (
        UniqueConstraint(
            "comparison_id",
            "target_model_id",
            "reference_model_id",
            "kind",
            "name",
            "scope",
            name="uq_category_effect_row",
        ),
        ForeignKeyConstraint(
            ["target_model_id"], ["subject_model.id"], name="fk_category_effect_target"
        ),
        ForeignKeyConstraint(
            ["reference_model_id"], ["subject_model.id"], name="fk_category_effect_reference"
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"))
    comparison_id: Mapped[int] = mapped_column(ForeignKey("comparison.id"))
    target_model_id: Mapped[int]
    reference_model_id: Mapped[int]
    kind: Mapped[str] = mapped_column(OneOf(SET_KINDS))
    name: Mapped[str] = mapped_column(String(200))
    """Slug of the category, `target` or `reference`, or what the set is called."""
    scope: Mapped[str] = mapped_column(String(16))
    """assistant, answer_start or content."""
    is_main: Mapped[bool]
    """Whether attribution and controls belong to this scope."""
    n_latents: Mapped[int]
    n_documents: Mapped[int]
    n_tokens: Mapped[int]
    gap: Mapped[float | None]
    """Nats per token between the two outputs."""
    restored: Mapped[float | None]
    """Share of the gap; NULL where there is none."""
    restored_low: Mapped[float | None]
    restored_high: Mapped[float | None]
    carried: Mapped[float | None]
    carried_low: Mapped[float | None]
    carried_high: Mapped[float | None]
    first_order: Mapped[float | None]
    first_order_low: Mapped[float | None]
    first_order_high: Mapped[float | None]
    n_controls: Mapped[int]
    control_mean: Mapped[float | None]
    control_low: Mapped[float | None]
    control_high: Mapped[float | None]
    p_value: Mapped[float | None]
    """Rank of first_order among the controls."""
    q_value: Mapped[float | None]
    """Benjamini-Hochberg over the categories of one direction."""
    n_patched_controls: Mapped[int]
    restored_control_mean: Mapped[float | None]
    restored_control_low: Mapped[float | None]
    restored_control_high: Mapped[float | None]
    restored_p: Mapped[float | None]
    carried_control_mean: Mapped[float | None]
    carried_control_low: Mapped[float | None]
    carried_control_high: Mapped[float | None]
    carried_p: Mapped[float | None]
    control_magnitude: Mapped[float | None]
    """Mean magnitude of the controls, as a share of the set's; without p where it is not alike."""
    on_half: Mapped[bool | None]
    """Whether only the half of the documents counts by which the set was not chosen."""
