"""How a crosscoder is trained: every choice by name."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from crosscoder.devices import Device
from crosscoder.losses import ReconstructionLoss
from crosscoder.sparse import Precision


class TrainConfig(BaseModel):
    """The optimiser, the objective and the schedule; immutable, unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    """Seed of the weights, of the order of the data, and of the split where the store has none."""
    held_out: float = Field(0.1, gt=0, lt=0.9)
    """Share of documents kept from training, where the store is not split already."""
    epochs: float = Field(8.0, gt=0)
    """Passes over the training tokens; an incomplete batch at the end of a pass is left out."""
    batch_size: int = Field(2048, ge=2)
    """B, unmasked tokens per step; all training tokens where there are fewer."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of Adam (betas 0.9 and 0.999)."""
    warmup_steps: int = Field(20, ge=0)
    """Steps of linear warm-up."""
    decay_fraction: float = Field(0.3, ge=0, le=1)
    """Share of the last steps over which the rate falls linearly to zero."""
    max_grad_norm: float | None = Field(1.0, gt=0)
    """The gradient of all weights together is scaled down to this L2 norm."""
    reconstruction: ReconstructionLoss = "squared"
    """`squared` or `unsquared`, see `LossSettings`; coefficients are not portable across them."""
    difference_weight: float = Field(1.0, gt=0)
    """Weight of what differs between the models in the squared loss and in the selection, see
    `crosscoder.stretching`; 1 is the plain loss. Decoders are in the models' own coordinates."""
    dedicated_share: float = Field(0.0, ge=0, lt=1)
    """Share of the latents that each model has to itself, see `crosscoder.partitions`."""
    aux_coefficient: float = Field(1 / 32, ge=0)
    """Weight of AuxK on dead latents (`batch_topk`)."""
    wake_silent: bool = True
    """Raise the biases of dead latents that no token activates, which AuxK cannot reach."""
    l1_coefficient: float = Field(1.0, ge=0)
    """Weight of the sum-of-norms penalty (`l1`)."""
    dead_after_tokens: int | None = Field(None, ge=1)
    """Tokens without firing after which a latent is dead; the smaller of 10 M and an epoch."""
    k_initial: int | None = Field(None, ge=1)
    """k of the first step, where `k_annealing_steps` > 0."""
    k_annealing_steps: int = Field(0, ge=0)
    """Steps over which k falls from `k_initial`; 0 trains with the target k throughout."""
    b_dec_init: Literal["zero", "mean", "geometric_median"] = "mean"
    """Decoder bias at the start: of the first batch, per model."""
    theta: Literal["calibrated", "ema_min"] = "calibrated"
    """`calibrated`: mean L0 over held-out tokens equals k. `ema_min`: running mean of the
    smallest selected v of each batch, as published; its L0 drifts above k."""
    theta_start_step: int = Field(1000, ge=0)
    """Step from which `ema_min` follows the batches."""
    checkpoint_every: int = Field(50, ge=1)
    """Steps between resumable checkpoints."""
    max_dead_share: float = Field(0.9, gt=0, le=1)
    """Share of dead latents above which the run stops: the dictionary has collapsed."""
    device: Device = "cpu"
    """Where the weights lie and the steps are taken; `auto` is the GPU where there is one."""
    precision: Precision = "float32"
    """Of the two factors of the encoder product in training; all else is float32."""

    @model_validator(mode="after")
    def _annealing_has_a_start(self) -> TrainConfig:
        if self.k_annealing_steps > 0 and self.k_initial is None:
            raise ValueError("k_initial: missing; k_annealing_steps needs the k of the first step")
        return self

    @model_validator(mode="after")
    def _dedicated_latents_are_not_stretched(self) -> TrainConfig:
        if self.dedicated_share > 0 and self.difference_weight != 1:
            raise ValueError(
                "dedicated_share: its latents have one model alone, difference_weight mixes the "
                "models; leave one of them out"
            )
        return self

    @classmethod
    def minder2025(cls, **changes: Any) -> TrainConfig:
        """The optimiser of arXiv 2504.02922, to go with `CrosscoderConfig(normalisation="none")`.

        Published: unsquared loss, Adam 1e-4, 1000 steps of warm-up and no decay, clipping at 1,
        AuxK 1/32 after 10 M tokens, geometric median, running threshold, k = 100 fixed.
        """
        published: dict[str, Any] = {
            "learning_rate": 1e-4,
            "warmup_steps": 1000,
            "decay_fraction": 0.0,
            "reconstruction": "unsquared",
            "aux_coefficient": 1 / 32,
            "wake_silent": False,
            "dead_after_tokens": 10_000_000,
            "b_dec_init": "geometric_median",
            "theta": "ema_min",
        }
        return cls(**{**published, **changes})
