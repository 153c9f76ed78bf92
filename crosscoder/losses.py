"""The training objective: reconstruction, AuxK on dead latents, sparsity; no hidden state."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from crosscoder.model import Crosscoder
from crosscoder.settings import Precision, ReconstructionLoss
from crosscoder.sparse import SparseCodes
from crosscoder.workspace import Workspace


@dataclass(frozen=True)
class LossSettings:
    """What the objective is made of at one step."""

    reconstruction: ReconstructionLoss = "squared"
    """`squared`: mean over tokens of sum over models of ||z - zhat||^2.
    `unsquared`: mean over tokens and models of ||z - zhat||, the published code's default.
    Coefficients of one are no use with the other."""
    k: float = 32
    """Active latents per token under `batch_topk`; the batch keeps round(k * B) pairs."""
    aux_coefficient: float = 0.0
    """Weight of AuxK."""
    wake_silent: bool = False
    """Whether the biases of dead latents that AuxK cannot reach are raised, see `wake_loss`."""
    l1_coefficient: float = 0.0
    """Weight of the sparsity penalty under `l1`."""
    precision: Precision = "float32"
    """Of the encoder product under `batch_topk`."""


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
    if crosscoder.config.activation == "l1":
        return _l1_loss(crosscoder, z, settings)
    return _batch_topk_loss(crosscoder, z, settings, dead, workspace or Workspace())


def _batch_topk_loss(
    crosscoder: Crosscoder,
    z: torch.Tensor,
    settings: LossSettings,
    dead: torch.Tensor | None,
    workspace: Workspace,
) -> Losses:
    if settings.aux_coefficient == 0 or (dead is not None and dead.numel() == 0):
        dead = None
    k_total = round(settings.k * z.shape[0])
    encoded = crosscoder.encode_topk(z, k_total, dead, settings.precision, workspace)
    z_hat, estimate = crosscoder.decode_encoded(encoded, z.shape[0], workspace)
    codes = SparseCodes(encoded.token, encoded.latent, encoded.value.detach())
    error = z - z_hat
    reconstruction = _reconstruction(error, settings.reconstruction)
    total, auxiliary = reconstruction, reconstruction.new_zeros(())
    if dead is not None:
        auxiliary = auxk_loss(error.detach(), estimate)
        total = total + settings.aux_coefficient * auxiliary
        if settings.wake_silent and encoded.dead is not None:
            total = total + settings.aux_coefficient * wake_loss(crosscoder, encoded.dead.silent())
    return Losses(
        total=total,
        reconstruction=reconstruction.detach(),
        auxiliary=auxiliary.detach(),
        sparsity=reconstruction.new_zeros(()),
        codes=codes,
        threshold=_smallest(codes, crosscoder.code_norms().detach()),
        squared_errors=error.detach().square().sum((0, 2)),
    )


def _l1_loss(crosscoder: Crosscoder, z: torch.Tensor, settings: LossSettings) -> Losses:
    """Anthropic's sparse crosscoder (2024): the penalty is weighted by the sum of norms."""
    a = crosscoder.encode(z)
    error = z - crosscoder.decode_dense(a)
    reconstruction = _reconstruction(error, settings.reconstruction)
    norms = crosscoder.code_norms()
    sparsity = (a.sum(0) @ norms) / z.shape[0]
    token, latent = a.detach().nonzero().unbind(1)
    codes = SparseCodes(token, latent, a.detach()[token, latent])
    return Losses(
        total=reconstruction + settings.l1_coefficient * sparsity,
        reconstruction=reconstruction.detach(),
        auxiliary=reconstruction.new_zeros(()),
        sparsity=sparsity.detach(),
        codes=codes,
        threshold=_smallest(codes, norms.detach()),
        squared_errors=error.detach().square().sum((0, 2)),
    )


def _smallest(codes: SparseCodes, norms: torch.Tensor) -> torch.Tensor:
    if codes.n_active == 0:
        return codes.value.new_full((), float("nan"))
    return (codes.value * norms.index_select(0, codes.latent)).min()


def _reconstruction(error: torch.Tensor, kind: ReconstructionLoss) -> torch.Tensor:
    if kind == "squared":
        return error.square().sum() / error.shape[0]
    return error.norm(dim=-1).mean()


def auxk_loss(residual: torch.Tensor, estimate: torch.Tensor) -> torch.Tensor:
    """AuxK: the dead latents reconstruct what the living ones leave over.

    aux = mean_i ||r_i - rhat_i||^2 / mean_i ||r_i - mean r||^2, where rhat decodes, per token, the
    min(d // 2, n_dead) largest v among the dead latents, unscaled and without the bias; 0 where
    it is undefined. Form of arXiv 2406.04093 and 2504.02922. Both are (B, M, d); the residual r
    has no gradient.
    """
    spread = (residual - residual.mean(0)).square().sum()
    return ((residual - estimate).square().sum() / spread).nan_to_num(0.0, 0.0, 0.0)


def wake_loss(crosscoder: Crosscoder, silent: torch.Tensor) -> torch.Tensor:
    """Raises the encoder biases of `silent` (n_silent,) latents; its value is 0.

    A dead latent whose pre-activation is negative on the whole batch has no gradient, from AuxK
    neither: relu hides it. A constant gradient on its bias moves it up by one learning rate a
    step under Adam, until some token activates it and AuxK takes over.
    """
    bias = crosscoder.b_enc.index_select(0, silent)
    return (bias.detach() - bias).sum() / crosscoder.config.n_latents
