"""The tables of the crosscoder, its latent sets and their evidence."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from labeler.sections.base import Section


class TrainSection(Section):
    """`[train]`: the crosscoder and its optimiser."""

    preset: Literal["difflens", "minder2025"] = "difflens"
    """`minder2025` is the published recipe of arXiv 2504.02922."""
    n_latents: int = Field(4096, ge=2)
    """Dictionary size F."""
    k: int = Field(32, ge=1)
    """Average number of active latents per token."""
    epochs: float = Field(8.0, gt=0)
    """Passes over the training tokens."""
    batch_size: int = Field(2048, ge=2)
    """Unmasked tokens per step."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of Adam."""
    warmup_steps: int = Field(20, ge=0)
    """Steps of linear warm-up."""
    decay_fraction: float = Field(0.3, ge=0, le=1)
    """Share of the last steps over which the rate falls linearly to zero."""
    difference_weight: float = Field(1.0, gt=0)
    """Weight of what differs between the models, for close fine-tunes; 1 is the plain loss."""
    dedicated_share: float = Field(0.0, ge=0, lt=1)
    """Share of the latents that each model has to itself; not with `difference_weight`."""
    aux_coefficient: float = Field(1 / 32, ge=0)
    """Weight of the AuxK loss on dead latents."""
    wake_silent: bool = True
    """Raise the biases of dead latents that no token activates, which AuxK cannot reach."""
    dead_after_tokens: int | None = Field(None, ge=1)
    """Tokens without firing after which a latent is dead; the smaller of 10 M and an epoch."""
    max_dead_share: float = Field(0.9, gt=0, le=1)
    """Share of dead latents above which the run stops: the dictionary has collapsed."""
    checkpoint_every: int = Field(50, ge=1)
    """Steps between resumable checkpoints."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the steps are taken; `auto` is the GPU where there is one."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the two factors of the encoder product; all else is float32."""

    @model_validator(mode="after")
    def _k_fits(self) -> TrainSection:
        if self.k > self.n_latents:
            raise ValueError(f"k: {self.k} exceeds n_latents = {self.n_latents}; lower k")
        return self


class CrosscoderSection(Section):
    """`[crosscoder]`: a crosscoder that was trained elsewhere, instead of training one."""

    path: str | None = None
    """Folder or weights file: dictionary_learning (Hub or local), ckkissane, DFC, or difflens's
    own. `[[models]]` must name its models in its order; published ones put the base first."""
    scaling_factors: tuple[float, ...] | Literal["estimate"] | None = None
    """Factors on each model's activations, which the ckkissane layout does not store; `estimate`
    takes sqrt(d) / mean norm of the training text."""
    theta: Literal["stored", "calibrated"] = "stored"
    """`stored` keeps the file's threshold, `calibrated` sets it on held-out text to a mean of k
    active latents; a file without a threshold is calibrated in any case."""
    k: int | None = Field(None, ge=1)
    """Active latents per token, where the file does not say."""


class IsolateSection(Section):
    """`[isolate]`: which latents count as specific to one model."""

    rule: Literal["strict", "significant", "ranked"] = "strict"
    """Rule of the latent sets; it is stored with them."""
    top: int = Field(40, ge=1)
    """Latents a side under `ranked`."""
    nu_error_max: float = 0.2
    """Threshold on nu_error (arXiv 2504.02922)."""
    nu_reconstruction_max: float = 0.5
    """Threshold on nu_reconstruction (arXiv 2504.02922)."""
    min_delta_norm: float = Field(0.6, ge=0, lt=1)
    """`strict`, `significant`: least delta_norm of a candidate, the published end of "shared"."""
    min_documents: int = Field(8, ge=1)
    """Documents in which a latent must be active."""
    n_blocks: int = Field(20, ge=8)
    """Blocks of whole documents of the jackknife."""
    max_density: float = Field(0.2, gt=0, le=1)
    """Share of tokens above which a latent is too dense to be a concept (`ranked`)."""
    overlap: Literal["exclude", "keep"] = "exclude"
    """What happens to a latent that lies in both sets of a comparison."""


class ComparisonSection(Section):
    """`[[comparison]]`: what is compared with what."""

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


class CollectSection(Section):
    """`[collect]`: the evidence of each latent."""

    latents: Literal["selected", "all"] = "selected"
    """`selected`: the latents of the comparisons' sets; `all`: every latent of the dictionary."""
    top: int = Field(12, ge=2)
    """Strongest documents per latent."""
    quantile: int = Field(8, ge=0)
    """Documents drawn over the lower quantiles of activation."""
    negative: int = Field(8, ge=0)
    """Documents in which the latent does not fire."""
    similar: int = Field(0, ge=0)
    """Of the negatives, those that use the very words on which the latent fires most."""
    other_model: int = Field(4, ge=0)
    """Documents in which the twin, the nearest latent of the other side, fires and it does not."""
    window: int = Field(32, ge=4)
    """Tokens in a window of evidence."""

    @model_validator(mode="after")
    def _similar_are_negatives(self) -> CollectSection:
        if self.similar > self.negative:
            raise ValueError(f"similar: {self.similar} of {self.negative} negatives; lower it")
        return self
