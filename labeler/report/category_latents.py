"""How far the latents of each category can be trusted: reviewed labels, and other seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from labeler.text import plural

_LATENTS = text(
    "SELECT category, n_latents, n_reviewed, n_seeds, stable_share FROM v_category_latents"
    " WHERE comparison = :comparison"
)


@dataclass(frozen=True)
class CategoryLatents:
    """The latents of one category on both sides."""

    n_latents: int
    n_reviewed: int
    """Labels that are a reviewer's decision."""
    n_seeds: int | None
    """Crosscoders of other seeds that they were looked for in; None where there is one seed."""
    stable_share: float | None
    """Share of them that come again in at least half of those."""

    @property
    def stability(self) -> str:
        """Which share comes again, or that one seed cannot tell."""
        if self.stable_share is None or not self.n_seeds:
            return "one seed"
        return f"{self.stable_share:.0%} come again in {plural(self.n_seeds, 'other seed')}"

    @property
    def review(self) -> str:
        """Which share of the labels a person has reviewed."""
        if not self.n_reviewed:
            return "none reviewed"
        return f"{self.n_reviewed / self.n_latents:.0%} reviewed"


def read_category_latents(session: Session, comparison: str) -> Mapping[str, CategoryLatents]:
    """By slug, for every category and group with a latent."""
    return {
        row.category: CategoryLatents(row.n_latents, row.n_reviewed, row.n_seeds, row.stable_share)
        for row in session.execute(_LATENTS, {"comparison": comparison})
    }
