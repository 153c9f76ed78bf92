"""How a crosscoder is trained: every choice by name."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from crosscoder.settings import ReconstructionLoss, SplitSettings, TrainSettings


class TrainConfig(TrainSettings, SplitSettings):
    """How a crosscoder is trained; `held_out` counts where the store is not split already."""

    seed: int = 0
    """Seed of the weights, of the order of the data, and of the split where the store has none."""
    max_grad_norm: float | None = Field(1.0, gt=0)
    """The gradient of all weights together is scaled down to this L2 norm."""
    reconstruction: ReconstructionLoss = "squared"
    """`squared` or `unsquared`, see `LossSettings`; coefficients are not portable across them."""
    l1_coefficient: float = Field(1.0, ge=0)
    """Weight of the sum-of-norms penalty (`l1`)."""
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

    @model_validator(mode="after")
    def _annealing_has_a_start(self) -> TrainConfig:
        if self.k_annealing_steps > 0 and self.k_initial is None:
            raise ValueError("k_initial: missing; k_annealing_steps needs the k of the first step")
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
