"""The tables of the categories and how their change is counted."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from labeler.sections.base import Section


class TaxonomySection(Section):
    """`[taxonomy]`: the categories."""

    file: str | None = None
    """A user's own YAML; the shipped seed where it is missing."""
    cluster_distance: float = Field(0.5, gt=0, lt=2)
    """Cosine distance at which average-linkage clusters stop merging."""


class ReportSection(Section):
    """`[report]`: how the change is counted."""

    denominator: Literal["labelled", "assigned", "isolated"] = "labelled"
    """Which latents a share is a share of."""
    folder: str = "report"
    """Folder of the report, beside study.toml."""
    planted: dict[str, Literal["up", "down"]] = Field(default_factory=dict)
    """Known directions, category by category, that the report checks itself against."""


class SqlSection(Section):
    """`[sql]`: questions to the database."""

    folder: str = "queries"
    """Folder of the study's saved questions, `NAME.sql`, beside study.toml."""
