"""What a study works on: runs, models, corpora, taxonomies, crosscoders, latents, and evidence."""

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
from sqlalchemy.orm import Mapped, mapped_column

from labeler.store.schema.base import Base, FreeText, Matrix, OneOf, UtcDateTime, utc_now

RUN_KINDS = (
    "harvest", "train", "isolate", "collect", "label", "score", "categorize", "effect",
    "behaviour", "report",
    "import", "review", "taxonomy",
)  # fmt: skip
RUN_STATUSES = ("running", "done", "failed", "interrupted")
MAPPING_KINDS = ("same", "renamed", "merged", "split", "moved", "dropped")
EVIDENCE_KINDS = ("top", "quantile", "negative", "other_model")
SPLITS = ("explain", "score")


class Run(Base):
    """One execution of a stage; only status, finish and result ever change."""

    __tablename__ = "run"
    __table_args__ = (Index(None, "kind", "stage_key"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(OneOf(RUN_KINDS, 32))
    status: Mapped[str] = mapped_column(OneOf(RUN_STATUSES, 32))
    config: Mapped[dict[str, Any]] = mapped_column(JSON)
    config_sha256: Mapped[str] = mapped_column(String(64))
    stage_key: Mapped[str | None] = mapped_column(String(64))
    """Hash of the stage's config and inputs: equal keys mean equal products."""
    code_version: Mapped[str] = mapped_column(String(64))
    started_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    parent_run_id: Mapped[int | None] = mapped_column(ForeignKey("run.id"))
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """The stage's result, written when it finishes."""


class SubjectModel(Base):
    """One model under comparison, by the hash of its weights, tokenizer and template."""

    __tablename__ = "subject_model"
    __table_args__ = (UniqueConstraint("name", "fingerprint"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    fingerprint: Mapped[str] = mapped_column(String(64))
    path: Mapped[str | None] = mapped_column(FreeText)
    adapter: Mapped[str | None] = mapped_column(FreeText)
    revision: Mapped[str | None] = mapped_column(String(200))
    n_layers: Mapped[int | None]
    d_model: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class Corpus(Base):
    """A corpus, by hash."""

    __tablename__ = "corpus"
    __table_args__ = (UniqueConstraint("sha256"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    sha256: Mapped[str] = mapped_column(String(64))
    path: Mapped[str | None] = mapped_column(FreeText)
    n_documents: Mapped[int]
    """Several answers to one prompt count once."""
    n_tokens: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class TaxonomyVersion(Base):
    """One version of a taxonomy, by the hash of its content; frozen once a label uses it."""

    __tablename__ = "taxonomy_version"
    __table_args__ = (UniqueConstraint("sha256"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    version: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[str] = mapped_column(String(64))
    frozen: Mapped[bool] = mapped_column(default=False)
    parent_version_id: Mapped[int | None] = mapped_column(ForeignKey("taxonomy_version.id"))
    note: Mapped[str | None] = mapped_column(FreeText)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class Category(Base):
    """A category of one taxonomy version; level 1 is a parent, level 2 a leaf below one."""

    __tablename__ = "category"
    __table_args__ = (
        UniqueConstraint("taxonomy_version_id", "slug"),
        CheckConstraint("level IN (1, 2)", name="level"),
        CheckConstraint("slug NOT IN ('none', 'uninterpretable')", name="slug_not_reserved"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    taxonomy_version_id: Mapped[int] = mapped_column(ForeignKey("taxonomy_version.id"))
    slug: Mapped[str] = mapped_column(String(200))
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("category.id"))
    level: Mapped[int]
    name: Mapped[str] = mapped_column(String(200))
    definition: Mapped[str] = mapped_column(FreeText)
    include_when: Mapped[str] = mapped_column(FreeText)
    exclude_when: Mapped[str] = mapped_column(FreeText)
    prototypes: Mapped[list[str]] = mapped_column(JSON)
    position: Mapped[int]
    behaviour: Mapped[str | None] = mapped_column(FreeText)
    """What an answer of the category looks like; NULL where the taxonomy does not say."""


class CategoryMapping(Base):
    """Mapping of a category to a later version; NULL where it was dropped."""

    __tablename__ = "category_mapping"
    __table_args__ = (UniqueConstraint("from_category_id", "to_category_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    from_category_id: Mapped[int] = mapped_column(ForeignKey("category.id"))
    to_category_id: Mapped[int | None] = mapped_column(ForeignKey("category.id"))
    kind: Mapped[str] = mapped_column(OneOf(MAPPING_KINDS))
    note: Mapped[str | None] = mapped_column(FreeText)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class Crosscoder(Base):
    """One dictionary of latents; `sha256` is the hash of its weights, NULL where imported."""

    __tablename__ = "crosscoder"
    __table_args__ = (UniqueConstraint("name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(300))
    sha256: Mapped[str | None] = mapped_column(String(64))
    run_id: Mapped[int | None] = mapped_column(ForeignKey("run.id"))
    corpus_id: Mapped[int | None] = mapped_column(ForeignKey("corpus.id"))
    path: Mapped[str | None] = mapped_column(FreeText)
    n_latents: Mapped[int | None]
    config: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class CrosscoderModel(Base):
    """Which subject models a crosscoder decodes to, in the order of its weights."""

    __tablename__ = "crosscoder_model"
    __table_args__ = (UniqueConstraint("crosscoder_id", "subject_model_id"),)

    crosscoder_id: Mapped[int] = mapped_column(ForeignKey("crosscoder.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    subject_model_id: Mapped[int] = mapped_column(ForeignKey("subject_model.id"))


class Latent(Base):
    """One latent of a crosscoder; facts are NULL where it was imported."""

    __tablename__ = "latent"
    __table_args__ = (UniqueConstraint("crosscoder_id", "latent_index"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    crosscoder_id: Mapped[int] = mapped_column(ForeignKey("crosscoder.id"))
    latent_index: Mapped[int]
    density: Mapped[float | None]
    """Share of unmasked tokens on which it is active."""
    n_documents: Mapped[int | None]
    max_activation: Mapped[float | None]
    mean_activation: Mapped[float | None]
    n_seeds: Mapped[int | None]
    """Crosscoders of other seeds that it was looked for in; the next three are NULL without any."""
    p_reappear: Mapped[float | None]
    """Share of them with a counterpart: a latent of decoder cosine above 0.7, about as dense."""
    best_cosine: Mapped[float | None]
    """Largest decoder cosine, mean over them."""
    span_match: Mapped[float | None]
    """R^2 of its direction in the span of the ten nearest latents, mean over them."""


class LatentScaling(Base):
    """Latent scaling of one latent for one ordered pair of models; NULL where undefined."""

    __tablename__ = "latent_scaling"
    __table_args__ = (
        UniqueConstraint(
            "latent_id", "target_model_id", "reference_model_id", name="uq_latent_scaling_pair"
        ),
        CheckConstraint("target_model_id <> reference_model_id", name="two_models"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    latent_id: Mapped[int] = mapped_column(ForeignKey("latent.id"))
    target_model_id: Mapped[int] = mapped_column(ForeignKey("subject_model.id"))
    reference_model_id: Mapped[int] = mapped_column(ForeignKey("subject_model.id"))
    delta_norm: Mapped[float | None]
    nu_error: Mapped[float | None]
    nu_error_low: Mapped[float | None]
    nu_error_high: Mapped[float | None]
    nu_reconstruction: Mapped[float | None]
    nu_reconstruction_low: Mapped[float | None]
    nu_reconstruction_high: Mapped[float | None]
    n_active: Mapped[int | None]
    n_documents: Mapped[int | None]
    is_flagged: Mapped[bool] = mapped_column(default=False)
    """A numerator lies below -0.1."""
    strength_shift: Mapped[float | None]
    """By how much more strongly the target uses the latent; 0 = as strongly as the reference."""
    shift_low: Mapped[float | None]
    shift_high: Mapped[float | None]
    shift_t: Mapped[float | None]
    shift_q: Mapped[float | None]


class LatentSet(Base):
    """The latents specific to one model against another, under a named rule."""

    __tablename__ = "latent_set"
    __table_args__ = (Index(None, "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(300))
    crosscoder_id: Mapped[int | None] = mapped_column(ForeignKey("crosscoder.id"))
    """NULL where imported: one imported set may hold latents of several crosscoders."""
    target_model_id: Mapped[int | None] = mapped_column(ForeignKey("subject_model.id"))
    against_model_id: Mapped[int | None] = mapped_column(ForeignKey("subject_model.id"))
    rule: Mapped[str] = mapped_column(String(32))
    rule_params: Mapped[dict[str, Any]] = mapped_column(JSON)
    message: Mapped[str | None] = mapped_column(FreeText)
    """The rule's observations, in words."""
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class LatentSetMember(Base):
    """One latent of a set, with the score that put it there (rank 1 is the most specific)."""

    __tablename__ = "latent_set_member"
    __table_args__ = (Index(None, "latent_id"),)

    latent_set_id: Mapped[int] = mapped_column(ForeignKey("latent_set.id"), primary_key=True)
    latent_id: Mapped[int] = mapped_column(ForeignKey("latent.id"), primary_key=True)
    rank: Mapped[int | None]
    score: Mapped[float | None]


class Comparison(Base):
    """A target set against a reference set; a later isolation points it to newer sets."""

    __tablename__ = "comparison"
    __table_args__ = (
        UniqueConstraint("name"),
        CheckConstraint("target_set_id <> reference_set_id", name="two_sets"),
        Index(None, "target_set_id"),
        Index(None, "reference_set_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    target_set_id: Mapped[int] = mapped_column(ForeignKey("latent_set.id"))
    reference_set_id: Mapped[int] = mapped_column(ForeignKey("latent_set.id"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    labels_changed_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    """When an effective label or the membership last changed; reports from before are stale."""


class ComparisonSeed(Base):
    """A comparison that is another one by the crosscoders of a further seed."""

    __tablename__ = "comparison_seed"
    __table_args__ = (UniqueConstraint("leading_id", "seed"),)

    comparison_id: Mapped[int] = mapped_column(ForeignKey("comparison.id"), primary_key=True)
    leading_id: Mapped[int] = mapped_column(ForeignKey("comparison.id"))
    """The comparison by the first seed, which pages show."""
    seed: Mapped[int]
    """Its number among the seeds, from 1."""


class SideDraw(Base):
    """Sides of a comparison chosen again by chance: the null distribution of its counts."""

    __tablename__ = "side_draw"
    __table_args__ = (UniqueConstraint("target_set_id", "reference_set_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    target_set_id: Mapped[int] = mapped_column(ForeignKey("latent_set.id"))
    reference_set_id: Mapped[int] = mapped_column(ForeignKey("latent_set.id"))
    has_prefixes: Mapped[bool]
    """The first n latents of a side are the side of n latents per side."""
    target: Mapped[Any] = mapped_column(Matrix)
    """(draws, latents) latent indices in the rule's order; -1 = none."""
    reference: Mapped[Any] = mapped_column(Matrix)
    shifts: Mapped[Any] = mapped_column(Matrix)
    """(1 + blocks, latents) strength shift, and the same without each block of documents."""
    target_order: Mapped[Any] = mapped_column(Matrix, nullable=True)
    """(latents,) the side as it is, as deep as the draws; NULL without prefixes."""
    reference_order: Mapped[Any] = mapped_column(Matrix, nullable=True)
    squares: Mapped[Any] = mapped_column(Matrix, nullable=True)
    """(latents,) sum of the squared activations of each latent: its weight in a mean shift."""
    scrambled: Mapped[Any] = mapped_column(Matrix, nullable=True)
    """(scrambled fine-tunes, latents) strength shifts; NULL where none were made."""


class ComparisonSetting(Base):
    """Taxonomy version and judge of a comparison; the newest row is active."""

    __tablename__ = "comparison_setting"
    __table_args__ = (Index(None, "comparison_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    comparison_id: Mapped[int] = mapped_column(ForeignKey("comparison.id"))
    taxonomy_version_id: Mapped[int] = mapped_column(ForeignKey("taxonomy_version.id"))
    judge_id: Mapped[int] = mapped_column(ForeignKey("judge.id"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class EvidenceDocument(Base):
    """The half (explain or score) to which a document belongs for one latent: one half only."""

    __tablename__ = "evidence_document"
    __table_args__ = (UniqueConstraint("latent_id", "document_id", "split"),)

    latent_id: Mapped[int] = mapped_column(ForeignKey("latent.id"), primary_key=True)
    document_id: Mapped[str] = mapped_column(String(300), primary_key=True)
    split: Mapped[str] = mapped_column(OneOf(SPLITS))


class Evidence(Base):
    """An example of one latent; its half is the one of its document."""

    __tablename__ = "evidence"
    __table_args__ = (
        ForeignKeyConstraint(
            ["latent_id", "document_id", "split"],
            [
                "evidence_document.latent_id",
                "evidence_document.document_id",
                "evidence_document.split",
            ],
            name="fk_evidence_split",
        ),
        Index(None, "latent_id", "run_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"))
    latent_id: Mapped[int] = mapped_column(ForeignKey("latent.id"))
    document_id: Mapped[str] = mapped_column(String(300))
    split: Mapped[str] = mapped_column(OneOf(SPLITS))
    kind: Mapped[str] = mapped_column(OneOf(EVIDENCE_KINDS))
    quantile: Mapped[int | None]
    start: Mapped[int]
    """Position of the first token within the document."""
    tokens: Mapped[list[str]] = mapped_column(JSON)
    token_ids: Mapped[list[int]] = mapped_column(JSON)
    roles: Mapped[list[str]] = mapped_column(JSON)
    activations: Mapped[list[float]] = mapped_column(JSON)
    max_activation: Mapped[float]
