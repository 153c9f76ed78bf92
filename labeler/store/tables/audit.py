"""Random samples of latents that reviewers label without seeing the judge's label."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from crosscoder.settings import SIDES
from labeler.store.tables.base import Base, OneOf, UtcDateTime, utc_now


class AuditDraw(Base):
    """A simple random sample, without replacement, of one side; the newest one is in force."""

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
