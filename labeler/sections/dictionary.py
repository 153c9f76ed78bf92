"""The tables of the crosscoder, its latent sets and their evidence."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat

from crosscoder.settings import (
    ActiveLatents,
    DictionarySettings,
    EvidenceSettings,
    IsolationSettings,
    Overlap,
    RuleKind,
    ScalingSettings,
    TrainSettings,
)
from labeler.sections.base import Section


class TrainSection(Section, DictionarySettings, TrainSettings):
    """`[train]`: the crosscoder and its optimiser."""

    preset: Literal["difflens", "minder2025"] = "difflens"
    """`minder2025` is the published recipe of arXiv 2504.02922."""


class CrosscoderSection(Section):
    """`[crosscoder]`: a crosscoder that was trained elsewhere, instead of training one."""

    path: str | None = None
    """Folder or weights file: dictionary_learning (Hub or local), ckkissane, DFC, or difflens's
    own. `[[models]]` must name its models in its order; published ones put the base first."""
    scaling_factors: tuple[PositiveFloat, ...] | Literal["estimate"] | None = None
    """Factors on each model's activations, which the ckkissane layout does not store; `estimate`
    takes sqrt(d) / mean norm of the training text."""
    theta: Literal["stored", "calibrated"] = "stored"
    """`stored` keeps the file's threshold, `calibrated` sets it on held-out text to a mean of k
    active latents; a file without a threshold is calibrated in any case."""
    k: ActiveLatents | None = None
    """Active latents per token, where the file does not say."""


class IsolateSection(Section, IsolationSettings, ScalingSettings):
    """`[isolate]`: which latents count as specific to one model."""

    rule: RuleKind = "strict"
    """Rule of the latent sets; it is stored with them."""
    overlap: Overlap = "exclude"
    """What happens to a latent that lies in both sets of a comparison."""


class ComparisonSection(Section):
    """`[[comparison]]`: what is compared with what.

    The report, the review pages and `status` show these, in this order, and after them what was
    imported, by name. Comparisons of an earlier study.toml are listed as retired and stay in the
    database for SQL, whose views hold all; one whose models have changed under its name is shown
    again once it is isolated.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name used in the database and the report."""
    target: str
    """Model on the target side."""
    reference: str
    """Model on the reference side."""
    against: str | None = None
    """Common base that both sides are isolated against; without it, against each other."""
    target_crosscoder: str | None = None
    """Which of `[[crosscoders]]` the target side is read from, where several hold its models."""
    reference_crosscoder: str | None = None
    """Which of `[[crosscoders]]` the reference side is read from, where several hold its models."""


class CollectSection(Section, EvidenceSettings):
    """`[collect]`: the evidence of each latent."""

    latents: Literal["selected", "all"] = "selected"
    """`selected`: the latents of the comparisons' sets; `all`: every latent of the dictionary."""
