"""The settings of clustering that a study may choose: every name with its limits and default."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ClusterSettings(BaseModel):
    """How far apart clusters are and what they need; immutable, unknown names are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    cluster_distance: float | None = Field(None, gt=0, lt=2)
    """Cosine distance from which clusters of explanations stay apart; without it, the one at which
    clusters of subsamples agree best."""
    min_members: int = Field(3, ge=1)
    """Explanations that a cluster needs to be proposed as a category."""
