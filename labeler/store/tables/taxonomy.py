"""Taxonomy versions, their categories, and how one version maps to the next."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, CheckConstraint, ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from labeler.store.tables.base import Base, FreeText, OneOf, UtcDateTime, utc_now

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
    """What became of a category in a later version; NULL where it was dropped."""

    __tablename__ = "category_mapping"
    __table_args__ = (UniqueConstraint("from_category_id", "to_category_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    from_category_id: Mapped[int] = mapped_column(ForeignKey("category.id"))
    to_category_id: Mapped[int | None] = mapped_column(ForeignKey("category.id"))
    kind: Mapped[str] = mapped_column(OneOf(MAPPING_KINDS))
    note: Mapped[str | None] = mapped_column(FreeText)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
