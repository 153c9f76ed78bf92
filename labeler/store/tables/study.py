"""Runs of stages, what the models read, and taxonomy versions with their categories."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from labeler.store.tables.base import Base, FreeText, OneOf, UtcDateTime, utc_now

RUN_KINDS = (
    "harvest", "train", "isolate", "collect", "label", "score", "categorize", "report",
    "import", "review", "taxonomy",
)  # fmt: skip
RUN_STATUSES = ("running", "done", "failed", "interrupted")


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
    n_tokens: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


MAPPING_KINDS = ("same", "renamed", "merged", "split", "moved", "dropped")


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
