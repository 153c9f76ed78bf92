"""The tables of the categories and how their change is counted."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from labeler.sections.base import Section
from taxonomy.settings import ClusterSettings
from taxonomy.significance import ExactTest

Denominator = Literal["labelled", "assigned", "isolated"]
"""Latents that a share is a share of: assigned or none, with a category, or all."""


class TaxonomySection(Section, ClusterSettings):
    """`[taxonomy]`: the categories."""

    file: str | None = None
    """A user's own YAML; the shipped seed where it is missing."""
    mode: Literal["seed", "induce", "residual"] = "seed"
    """`seed` maps to the categories there are, `induce` makes them from the explanations,
    `residual` maps first and makes further ones from what is left."""
    accept: Literal["person", "auto"] = "person"
    """Who accepts categories that were made: a person by `taxonomy accept`, or nobody looks."""


class ReportSection(Section):
    """`[report]`: how the change is counted."""

    denominator: Denominator = "labelled"
    """Which latents a share is a share of."""
    test: ExactTest = "fisher"
    """Exact test of each change; boschloo finds a little more and takes longer."""
    folder: str = "report"
    """Folder of the report, beside study.toml."""
    planted: dict[str, Literal["up", "down"]] = Field(default_factory=dict)
    """Known directions, category by category, that the report checks itself against."""


class SqlSection(Section):
    """`[sql]`: questions to the database."""

    folder: str = "queries"
    """Folder of the study's saved questions, `NAME.sql`, beside study.toml."""
