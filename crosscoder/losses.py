"""The parts of the training objective: reconstruction, AuxK, scaled differences, partitions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch

from crosscoder.batch_topk import SparseCodes
from crosscoder.config import (
    ACTIVATIONS,
    Precision,
    ReconstructionLoss,
    TrainConfig,
    check_exclusive_fraction,
)
from crosscoder.kernels import Workspace
from crosscoder.model import Crosscoder


@dataclass(frozen=True)
class LossSettings:
    """What the objective is made of at one step."""

    reconstruction: ReconstructionLoss = "squared"
    """`squared`: mean over tokens of sum over models of ||z - zhat||^2.
    `unsquared`: mean over tokens and models of ||z - zhat||, the published code's default.
    Coefficients of one do not fit the other."""
    k: float = 32
    """Active latents per token under `batch_topk`; the batch keeps round(k * B) pairs."""
    aux_coefficient: float = 0.0
    """Weight of AuxK."""
    revive_dead: bool = False
    """Whether the biases of dead latents that AuxK cannot reach are raised, see `revival_loss`."""
    l1_coefficient: float = 0.0
    """Weight of the sparsity penalty under `l1`."""
    precision: Precision = "float32"
    """Number type of the encoder's matrix product under `batch_topk`."""

    @classmethod
    def from_config(cls, config: TrainConfig, k: float) -> LossSettings:
        """Every field but k as the config has it under the same name."""
        names = [field.name for field in fields(cls) if field.name != "k"]
        return cls(k=k, **{name: getattr(config, name) for name in names})


@dataclass(frozen=True)
class Losses:
    """The objective of one batch and its parts."""

    total: torch.Tensor
    """() what is minimised; carries the gradient."""
    reconstruction: torch.Tensor
    """() reconstruction loss, detached."""
    auxiliary: torch.Tensor
    """() AuxK before its coefficient, detached; 0 without dead latents."""
    sparsity: torch.Tensor
    """() mean over tokens of sum_j a_j n_j under `l1`, detached; 0 under `batch_topk`."""
    codes: SparseCodes
    """Detached codes that were decoded."""
    threshold: torch.Tensor
    """() smallest v = a * n that was decoded; nan where nothing was."""
    squared_errors: torch.Tensor
    """(M,) sum over the batch of ||z - zhat||^2 of each model, detached."""


def crosscoder_loss(
    crosscoder: Crosscoder,
    z: torch.Tensor,
    settings: LossSettings,
    dead: torch.Tensor | None = None,
    workspace: Workspace | None = None,
) -> Losses:
    """The objective for normalised activations (B, M, d); `dead` (n_dead,) ascending latents.

    With a `workspace` the gradients of the weights lie in it and are good until its next use.
    """
    activation = ACTIVATIONS.get(crosscoder.config.activation)
    return activation.loss(crosscoder, z, settings, dead, workspace or Workspace())


def reconstruction_loss(error: torch.Tensor, kind: ReconstructionLoss) -> torch.Tensor:
    """() loss of the errors z - zhat (B, M, d), see `LossSettings.reconstruction`."""
    if kind == "squared":
        return error.square().sum() / error.shape[0]
    lengths: torch.Tensor = error.norm(dim=-1)
    return lengths.mean()


def auxk_loss(residual: torch.Tensor, estimate: torch.Tensor) -> torch.Tensor:
    """AuxK: the dead latents reconstruct the residual of the others.

    aux = mean_i ||r_i - rhat_i||^2 / mean_i ||r_i - mean r||^2, where rhat decodes, per token, the
    min(d // 2, n_dead) largest v among the dead latents, unscaled and without the bias; 0 where
    it is undefined. Form of arXiv 2406.04093 and 2504.02922. Both are (B, M, d); the residual r
    has no gradient.
    """
    spread = (residual - residual.mean(0)).square().sum()
    return ((residual - estimate).square().sum() / spread).nan_to_num(0.0, 0.0, 0.0)


def revival_loss(crosscoder: Crosscoder, latents: torch.Tensor) -> torch.Tensor:
    """Loss of value 0 whose gradient raises the encoder biases of `latents` (n,).

    A dead latent whose pre-activation is negative on the whole batch gets no gradient, not even
    from AuxK, since the relu is flat there. A constant gradient on its bias raises it by one
    learning rate per step under Adam, until some token activates it and AuxK takes over.
    """
    bias = crosscoder.b_enc.index_select(0, latents)
    return (bias.detach() - bias).sum() / crosscoder.config.n_latents


def scale_difference(z: torch.Tensor, weight: float) -> torch.Tensor:
    """(..., M, d) with the deviations from the mean over the models scaled by sqrt(weight)."""
    if weight == 1:
        return z
    mean = z.mean(dim=-2, keepdim=True)
    return mean + math.sqrt(weight) * (z - mean)


@torch.no_grad()
def in_own_coordinates(crosscoder: Crosscoder, weight: float) -> Crosscoder:
    """A crosscoder trained on scaled differences, as one of the models' own activations.

    It selects the same latents and decodes the same reconstruction, scaled back; n_j of the scaled
    rows is folded as by `with_folded_norms`. With `weight` 1 it is the crosscoder itself.
    """
    if weight == 1:
        return crosscoder
    own = with_folded_norms(crosscoder)
    # sum_m <scale(z)^m, w^m> = sum_m <z^m, scale(w)^m>: the map is symmetric.
    encoder = scale_difference(own.W_enc.permute(2, 0, 1), weight)
    own.W_enc.copy_(encoder.permute(1, 2, 0))
    own.W_dec.copy_(scale_difference(own.W_dec, 1 / weight))
    own.b_dec.copy_(scale_difference(own.b_dec, 1 / weight))
    return own


@torch.no_grad()
def with_folded_norms(crosscoder: Crosscoder) -> Crosscoder:
    """A copy with the selection weight n_j in the scale of each latent: v_j = a_j.

    Its `code_norm` is "none": what it selects does not depend on the decoder. Latents and
    reconstructions are the same.
    """
    config = crosscoder.config.model_copy(update={"code_norm": "none"})
    folded = Crosscoder(config, normaliser=crosscoder.normaliser).to(crosscoder.W_dec)
    norms = crosscoder.code_norms()
    # A latent of norm 0 is never selected, whatever its activation.
    inverse = torch.where(norms > 0, 1 / norms, 0.0)
    folded.W_enc.copy_(crosscoder.W_enc * norms)
    folded.b_enc.copy_(crosscoder.b_enc * norms)
    folded.W_dec.copy_(crosscoder.W_dec * inverse[:, None, None])
    folded.b_dec.copy_(crosscoder.b_dec)
    folded.theta.copy_(crosscoder.theta)
    return folded


def exclusive_latents(n_latents: int, n_models: int, fraction: float) -> tuple[range, ...]:
    """The exclusive latents of each model: `fraction` of the dictionary each, rounded down.

    InputError where no latent would be left for all models to share.
    """
    check_exclusive_fraction(fraction, n_models)
    size = int(fraction * n_latents)
    return tuple(range(model * size, (model + 1) * size) for model in range(n_models))


@torch.no_grad()
def zero_excluded_weights(crosscoder: Crosscoder, fraction: float) -> None:
    """Set the weights of exclusive latents for the other models to zero."""
    for latents, model in _excluded_weights(crosscoder, fraction):
        crosscoder.W_dec[latents, model] = 0
        crosscoder.W_enc[model, :, latents] = 0


@torch.no_grad()
def zero_excluded_gradients(crosscoder: Crosscoder, fraction: float) -> None:
    """Set to zero the gradients of those weights: Adam then never moves them."""
    for latents, model in _excluded_weights(crosscoder, fraction):
        if crosscoder.W_dec.grad is not None:
            crosscoder.W_dec.grad[latents, model] = 0
        if crosscoder.W_enc.grad is not None:
            crosscoder.W_enc.grad[model, :, latents] = 0


def _excluded_weights(crosscoder: Crosscoder, fraction: float) -> Iterator[tuple[slice, int]]:
    """Latents with a model that has no weights there."""
    config = crosscoder.config
    if fraction == 0:
        return
    parts = exclusive_latents(config.n_latents, config.n_models, fraction)
    for owner, latents in enumerate(parts):
        for model in range(config.n_models):
            if model != owner:
                yield slice(latents.start, latents.stop), model
