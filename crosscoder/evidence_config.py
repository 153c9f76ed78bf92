"""How much evidence is collected for each latent."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

EvidenceKind = Literal["top", "quantile", "negative", "other_model"]


class EvidenceConfig(BaseModel):
    """How much evidence is collected for each latent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    top: int = Field(default=12, ge=1)
    """Strongest documents."""
    quantile: int = Field(default=8, ge=0)
    """Documents drawn over the strata below the strongest."""
    strata: int = Field(default=4, ge=1)
    """Equal parts into which the documents below the strongest are ranked."""
    negative: int = Field(default=8, ge=0)
    """Documents in which the latent never fires."""
    similar: int = Field(default=0, ge=0)
    """Of the negatives, those whose words are most like those of the strongest windows."""
    other_model: int = Field(default=4, ge=0)
    """Documents in which the other side's twin fires and the latent does not."""
    window: int = Field(default=32, ge=1)
    """Tokens of a window; a shorter document is shown whole."""
    seed: int = 0
    """Seed of the random draws."""

    @model_validator(mode="after")
    def _similar_are_negatives(self) -> EvidenceConfig:
        if self.similar > self.negative:
            raise ValueError(f"similar: {self.similar} of {self.negative} negatives; lower it")
        return self


def with_spare(wanted: int) -> int:
    """Candidates for that many windows, so that repeated texts can be passed over."""
    return 2 * wanted + 4 if wanted else 0
