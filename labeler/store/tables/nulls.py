"""What was found where nothing differs, beside a comparison's result."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from labeler.store.tables.base import Base, FreeText, OneOf, UtcDateTime, utc_now

NULL_KINDS = ("seed", "permuted", "noise")


class NullResult(Base):
    """One null run of a comparison; the newest of each kind is the one that counts."""

    __tablename__ = "null_result"
    __table_args__ = (Index(None, "comparison_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    comparison_id: Mapped[int] = mapped_column(ForeignKey("comparison.id"))
    computed_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    code_version: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(OneOf(NULL_KINDS))
    title: Mapped[str] = mapped_column(FreeText)
    settings: Mapped[dict[str, Any]] = mapped_column(JSON)
    """`[thorough]` and the study's seed."""
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
