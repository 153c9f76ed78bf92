"""The table of the scores and controls that measure the judge."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from crosscoder.settings import Settings
from labeler.sections.base import Section


class ScoreSettings(Settings):
    """How explanations are tested on text they never saw."""

    methods: tuple[Literal["detection", "fuzzing"], ...] = ("detection", "fuzzing")
    """`detection`: does it fire in this text; `fuzzing`: are the right tokens marked. [] = none."""
    examples: int = Field(20, ge=2)
    """Most examples for one latent and method; the score half of the evidence may hold fewer."""
    per_call: int = Field(10, ge=1)
    """Examples in one call."""
    shuffled: bool = True
    """Score another latent's explanation on the same examples, without telling the judge."""


class ScoresSection(Section, ScoreSettings):
    """`[scores]`: how explanations are tested on text they never saw, and with which controls."""

    judges: tuple[Literal["evidence", "openai", "scripted"], ...] = ("evidence", "openai")
    """Kinds of judges whose explanations are scored, each by the judge itself."""
    controls: int = Field(20, ge=0)
    """Latents for each comparison that are specific to no side and as dense as the specific ones;
    they are explained and categorised like these, for base rates, and counted nowhere."""
