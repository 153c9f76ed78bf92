"""How much evidence is collected for each latent."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from crosscoder.settings import EvidenceSettings

EvidenceKind = Literal["top", "quantile", "negative", "other_model"]


class EvidenceConfig(EvidenceSettings):
    """How much evidence is collected for each latent, and how it is drawn."""

    strata: int = Field(default=4, ge=1)
    """Equal parts into which the documents below the strongest are ranked."""
    seed: int = 0
    """Seed of the random draws."""


def with_spare(wanted: int) -> int:
    """Candidates for that many windows, so that repeated texts can be passed over."""
    return 2 * wanted + 4 if wanted else 0
