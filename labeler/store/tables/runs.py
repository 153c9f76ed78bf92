"""Runs of stages, and what the subject models read."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, UniqueConstraint
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
    """What the stage says of its outcome, written when it finishes."""


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
    """The text that every model reads, by hash."""

    __tablename__ = "corpus"
    __table_args__ = (UniqueConstraint("sha256"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    sha256: Mapped[str] = mapped_column(String(64))
    path: Mapped[str | None] = mapped_column(FreeText)
    n_documents: Mapped[int]
    n_tokens: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
