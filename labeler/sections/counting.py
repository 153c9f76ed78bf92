"""The tables of the categories and how their change is counted."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from labeler.sections.base import Section


class TaxonomySection(Section):
    """`[taxonomy]`: the categories."""

    file: str | None = None
    """A user's own YAML; the shipped seed where it is missing."""
    mode: Literal["seed", "induce", "residual"] = "seed"
    """`seed` maps to the categories there are, `induce` makes them from the explanations,
    `residual` maps first and makes further ones from what is left."""
    accept: Literal["person", "auto"] = "person"
    """Who accepts categories that were made: a person by `taxonomy accept`, or nobody looks."""
    cluster_distance: float | None = Field(None, gt=0, lt=2)
    """Cosine distance from which clusters of explanations stay apart; without it, the one at which
    clusters of subsamples agree best."""
    min_members: int = Field(3, ge=1)
    """Explanations that a cluster needs to be proposed as a category."""


class ReportSection(Section):
    """`[report]`: how the change is counted."""

    denominator: Literal["labelled", "assigned", "isolated"] = "labelled"
    """Which latents a share is a share of."""
    test: Literal["fisher", "boschloo"] = "fisher"
    """Exact test of each change; boschloo finds a little more and takes longer."""
    folder: str = "report"
    """Folder of the report, beside study.toml."""
    planted: dict[str, Literal["up", "down"]] = Field(default_factory=dict)
    """Known directions, category by category, that the report checks itself against."""


class SqlSection(Section):
    """`[sql]`: questions to the database."""

    folder: str = "queries"
    """Folder of the study's saved questions, `NAME.sql`, beside study.toml."""
