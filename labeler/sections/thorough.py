"""The table of the null runs."""

from __future__ import annotations

from pydantic import Field

from labeler.sections.base import Section


class ThoroughSection(Section):
    """`[thorough]`: what `difflens run --thorough` does where nothing differs."""

    seeds: int = Field(2, ge=0)
    """Further crosscoders of the same models, each of another seed, labelled by the same judge."""
    permutations: int = Field(500, ge=0)
    """Times the sides are dealt anew over the labelled latents."""
    noise: float = Field(0.1, ge=0)
    """Noise of the copy that the reference model is compared with, in units of the root mean square
    of its activations; 0 leaves that run out."""
    noise_tokens: int = Field(200_000, ge=1000)
    """Tokens of that comparison: they lie in memory."""
