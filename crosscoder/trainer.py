"""One training step after another: optimiser, schedule, and the state of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from crosscoder.config import TrainConfig
from crosscoder.errors import WorkError
from crosscoder.kernels import Workspace
from crosscoder.losses import (
    Losses,
    LossSettings,
    crosscoder_loss,
    scale_difference,
    zero_excluded_gradients,
)
from crosscoder.model import Crosscoder

_MOMENTS = ("exp_avg", "exp_avg_sq")


class Adam:
    """Adam on a module's parameters.

    The fused kernel copies every tensor that is not contiguous, `W_enc` among them, so it is
    given contiguous views of the same memory.
    """

    def __init__(self, module: nn.Module) -> None:
        self._parameters = dict(module.named_parameters())
        self._views = {name: nn.Parameter(_dense(p)) for name, p in self._parameters.items()}
        self._adam = torch.optim.Adam(list(self._views.values()), fused=True)

    def step(self, learning_rate: float) -> None:
        """Apply the parameters' gradients and drop them."""
        for name, parameter in self._parameters.items():
            gradient = parameter.grad
            self._views[name].grad = None if gradient is None else _like(gradient, parameter)
            parameter.grad = None
        self._adam.param_groups[0]["lr"] = learning_rate
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)

    def state(self) -> dict[str, torch.Tensor]:
        """Step counts and moments by name, as stored in a checkpoint; empty before a step."""
        state: dict[str, torch.Tensor] = {}
        for name, view in self._views.items():
            for key, value in self._adam.state.get(view, {}).items():
                state[f"{name}.{key}"] = value
        return state

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over what `state` returned; KeyError where a tensor is missing."""
        for name, view in self._views.items():
            entry = {key: state[f"{name}.{key}"].to(view.device) for key in _MOMENTS}
            entry["step"] = state[f"{name}.step"].to(view.device)
            self._adam.state[view] = entry


def _memory_order(parameter: torch.Tensor) -> list[int]:
    return sorted(range(parameter.dim()), key=parameter.stride, reverse=True)


def _dense(parameter: torch.Tensor) -> torch.Tensor:
    """A contiguous view of a parameter's memory, axes in the order in which they lie there."""
    return parameter.detach().permute(_memory_order(parameter))


def _like(gradient: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    return gradient.permute(_memory_order(parameter)).contiguous()


WEISZFELD_STEPS = 100
WEISZFELD_TOLERANCE = 1e-5


def initial_decoder_bias(
    z: torch.Tensor, kind: Literal["zero", "mean", "geometric_median"]
) -> torch.Tensor:
    """Decoder bias (M, d) from a first batch (B, M, d) of normalised activations."""
    if kind == "zero":
        return torch.zeros_like(z[0])
    if kind == "mean":
        return z.mean(0)
    return geometric_median(z)


def geometric_median(points: torch.Tensor) -> torch.Tensor:
    """Point (M, d) with the least sum of distances to points (B, M, d), model by model.

    Weiszfeld's iteration from the mean: at most 100 steps, until no model moves by more than
    1e-5 of its spread.
    """
    x = points.double()
    median = x.mean(0)
    spread = (x - median).norm(dim=-1).mean(0)
    for _ in range(WEISZFELD_STEPS):
        weight = 1 / (x - median).norm(dim=-1, keepdim=True).clamp_min(1e-12)
        moved = (weight * x).sum(0) / weight.sum(0)
        shift = (moved - median).norm(dim=-1)
        median = moved
        if bool((shift <= WEISZFELD_TOLERANCE * spread).all()):
            break
    return median.to(points.dtype)


def learning_rate(
    step: int, n_steps: int, peak: float, warmup_steps: int, decay_fraction: float
) -> float:
    """Linear warm-up to `peak`, then constant, then linear decay over the last fraction.

    The first step of the warm-up has rate peak / warmup_steps; the rate would reach 0 one step
    after the last.
    """
    warm = min(1.0, (step + 1) / warmup_steps) if warmup_steps > 0 else 1.0
    decay_steps = decay_fraction * n_steps
    left = min(1.0, (n_steps - step) / decay_steps) if decay_steps > 0 else 1.0
    return peak * warm * left


def annealed_k(step: int, k: int, k_initial: int, annealing_steps: int) -> float:
    """k falls linearly from `k_initial` to `k` over the first steps.

    `annealing_steps` = 0 means k from the first step on.
    """
    if annealing_steps == 0 or step >= annealing_steps:
        return float(k)
    return k_initial + (k - k_initial) * step / annealing_steps


THETA_DECAY = 0.999
"""Decay of the running threshold of `theta = "ema_min"` (arXiv 2504.02922)."""


@dataclass(frozen=True)
class StepMetrics:
    """One line of metrics.jsonl."""

    step: int
    """Steps done, this one included."""
    n_tokens: int
    """Training tokens seen, this step included."""
    loss: float
    reconstruction: float
    auxiliary: float
    sparsity: float
    fve: dict[str, float]
    """By model name, on this batch and about its own mean, before the step; in the coordinates of
    the loss where `difference_weight` is not 1."""
    l0: float
    k: float
    n_dead: int
    """Dead latents, before the step."""
    threshold: float | None
    """Smallest v that was decoded."""
    learning_rate: float
    gradient_norm: float
    """L2 norm over all weights before clipping."""


class Trainer:
    """The weights, the optimiser and the counters of one run.

    Counters of dead latents advance in `step` alone: measuring or logging changes nothing.
    """

    def __init__(
        self, crosscoder: Crosscoder, config: TrainConfig, n_steps: int, dead_after_tokens: int
    ) -> None:
        self.crosscoder = crosscoder
        self.n_steps = n_steps
        self.n_done = 0
        self.n_tokens = 0
        self.last_loss = math.nan
        self._config = config
        self._dead_after = dead_after_tokens
        self._adam = Adam(crosscoder)
        self._workspace = Workspace()
        n_latents = crosscoder.config.n_latents
        self._tokens_since_fired = torch.zeros(n_latents, dtype=torch.int64)

    @property
    def dead(self) -> torch.Tensor:
        """(n_dead,) latents that have not fired for `dead_after_tokens` training tokens."""
        return (self._tokens_since_fired >= self._dead_after).nonzero().squeeze(1)

    def step(self, batch: torch.Tensor) -> StepMetrics:
        """One step on raw activations (B, M, d).

        Raises WorkError where loss or gradient are not finite or the dictionary has collapsed,
        before the weights change.
        """
        device = self.crosscoder.W_dec.device
        z = self.crosscoder.normalise(batch.to(device))
        z = scale_difference(z, self._config.difference_weight)
        dead = self.dead
        self._require_life(dead.numel())
        settings = self._settings()
        losses = crosscoder_loss(self.crosscoder, z, settings, dead.to(device), self._workspace)
        loss = float(losses.total.detach())
        self._require_finite(loss, "loss")
        torch.autograd.backward(losses.total)
        zero_excluded_gradients(self.crosscoder, self._config.exclusive_fraction)
        limit = self._config.max_grad_norm or math.inf
        gradient_norm = float(nn.utils.clip_grad_norm_(self.crosscoder.parameters(), limit))
        self._require_finite(gradient_norm, "gradient")
        rate = self._learning_rate()
        self._adam.step(rate)
        self._count(losses, z.shape[0])
        self._follow_threshold(losses)
        self.last_loss = loss
        return StepMetrics(
            step=self.n_done,
            n_tokens=self.n_tokens,
            loss=loss,
            reconstruction=float(losses.reconstruction),
            auxiliary=float(losses.auxiliary),
            sparsity=float(losses.sparsity),
            fve=self._batch_fve(losses, z),
            l0=losses.codes.n_active / z.shape[0],
            k=settings.k,
            n_dead=dead.numel(),
            threshold=None if losses.threshold.isnan() else float(losses.threshold),
            learning_rate=rate,
            gradient_norm=gradient_norm,
        )

    def state(self) -> dict[str, torch.Tensor]:
        """The optimiser's state and the counters, for a checkpoint."""
        state = {f"adam.{name}": tensor for name, tensor in self._adam.state().items()}
        state["tokens_since_fired"] = self._tokens_since_fired
        state["progress"] = torch.tensor([self.n_done, self.n_tokens])
        state["last_loss"] = torch.tensor(self.last_loss, dtype=torch.float64)
        return state

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over what `state` returned; KeyError where a tensor is missing."""
        prefix = "adam."
        self._adam.load_state(
            {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
        )
        self._tokens_since_fired = state["tokens_since_fired"]
        self.n_done, self.n_tokens = state["progress"].tolist()
        self.last_loss = float(state["last_loss"])

    def _require_finite(self, number: float, name: str) -> None:
        if not math.isfinite(number):
            raise WorkError(
                f"training step {self.n_done + 1}: the {name} is not finite; lower "
                "train.learning_rate, or harvest with storage_dtype = float32"
            )

    def _require_life(self, n_dead: int) -> None:
        share = n_dead / self.crosscoder.config.n_latents
        if share > self._config.max_dead_share:
            raise WorkError(
                f"training step {self.n_done + 1}: {100 * share:.1f}% of the latents have not "
                f"fired for {self._dead_after:,} tokens; lower train.learning_rate or "
                "train.n_latents, raise train.aux_coefficient, or allow it with "
                "train.max_dead_share"
            )

    def _settings(self) -> LossSettings:
        config, target = self._config, self.crosscoder.config.k
        k = annealed_k(self.n_done, target, config.k_initial or target, config.k_annealing_steps)
        return LossSettings.from_config(config, k)

    def _learning_rate(self) -> float:
        config = self._config
        return learning_rate(
            self.n_done,
            self.n_steps,
            config.learning_rate,
            config.warmup_steps,
            config.decay_fraction,
        )

    def _count(self, losses: Losses, n_tokens: int) -> None:
        self._tokens_since_fired += n_tokens
        self._tokens_since_fired[losses.codes.latent.cpu()] = 0
        self.n_done += 1
        self.n_tokens += n_tokens

    def _follow_threshold(self, losses: Losses) -> None:
        config = self._config
        if config.theta != "ema_min" or self.n_done <= config.theta_start_step:
            return
        if losses.threshold.isnan():
            return
        theta, smallest = self.crosscoder.theta, losses.threshold.double()
        if self.crosscoder.calibrated:
            smallest = THETA_DECAY * theta + (1 - THETA_DECAY) * smallest
        theta.copy_(smallest)

    def _batch_fve(self, losses: Losses, z: torch.Tensor) -> dict[str, float]:
        spread = (z - z.mean(0)).square().sum((0, 2))
        fve = (1 - losses.squared_errors / spread).tolist()
        return dict(zip(self.crosscoder.config.model_names, fve, strict=True))
