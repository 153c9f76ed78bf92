"""Activations: which latents are active, the loss that makes them few, and their threshold.

An activation is one class; `ACTIVATIONS` in crosscoder/config.py names those of this file, and
others register themselves there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch

from crosscoder.batch_topk import SparseCodes
from crosscoder.evaluate import Batches, calibrate_theta
from crosscoder.kernels import Workspace
from crosscoder.losses import Losses, LossSettings, auxk_loss, reconstruction_loss, revival_loss
from crosscoder.model import Crosscoder


class Activation(ABC):
    """How a crosscoder is kept sparse in training.

    Afterwards every crosscoder encodes alike: f = a where v = a * n exceeds theta.
    """

    aims_at_k: ClassVar[bool]
    """Whether `k` latents per token are to be active; theta is then calibrated to that."""

    @classmethod
    @abstractmethod
    def loss(
        cls,
        crosscoder: Crosscoder,
        z: torch.Tensor,
        settings: LossSettings,
        dead: torch.Tensor | None,
        workspace: Workspace,
    ) -> Losses:
        """The objective of normalised activations (B, M, d); `dead` (n_dead,) ascending."""

    @classmethod
    def threshold(cls, crosscoder: Crosscoder, held_out: Batches) -> float:
        """theta after training, from raw held-out batches (B, M, d)."""
        return calibrate_theta(crosscoder, held_out, crosscoder.config.k)


class BatchTopK(Activation):
    """The k * B largest weighted activations of a batch, AuxK for dead latents."""

    aims_at_k: ClassVar[bool] = True

    @classmethod
    def loss(
        cls,
        crosscoder: Crosscoder,
        z: torch.Tensor,
        settings: LossSettings,
        dead: torch.Tensor | None,
        workspace: Workspace,
    ) -> Losses:
        """Reconstruction, and AuxK where latents are dead."""
        if settings.aux_coefficient == 0 or (dead is not None and dead.numel() == 0):
            dead = None
        k_total = round(settings.k * z.shape[0])
        encoded = crosscoder.encode_topk(z, k_total, dead, settings.precision, workspace)
        z_hat, estimate = crosscoder.decode_encoded(encoded, z.shape[0], workspace)
        codes = SparseCodes(encoded.token, encoded.latent, encoded.value.detach())
        error = z - z_hat
        reconstruction = reconstruction_loss(error, settings.reconstruction)
        total, auxiliary = reconstruction, reconstruction.new_zeros(())
        if dead is not None:
            auxiliary = auxk_loss(error.detach(), estimate)
            total = total + settings.aux_coefficient * auxiliary
            if settings.revive_dead and encoded.dead is not None:
                unreached = encoded.dead.unreached()
                total = total + settings.aux_coefficient * revival_loss(crosscoder, unreached)
        return Losses(
            total=total,
            reconstruction=reconstruction.detach(),
            auxiliary=auxiliary.detach(),
            sparsity=reconstruction.new_zeros(()),
            codes=codes,
            threshold=_smallest(codes, crosscoder.code_norms().detach()),
            squared_errors=error.detach().square().sum((0, 2)),
        )


class L1(Activation):
    """All positive activations; the penalty of Anthropic's sparse crosscoder (2024)."""

    aims_at_k: ClassVar[bool] = False

    @classmethod
    def loss(
        cls,
        crosscoder: Crosscoder,
        z: torch.Tensor,
        settings: LossSettings,
        dead: torch.Tensor | None,
        workspace: Workspace,
    ) -> Losses:
        """Reconstruction, and the sum of activations weighted by the sum of norms."""
        a = crosscoder.encode(z)
        error = z - crosscoder.decode_dense(a)
        reconstruction = reconstruction_loss(error, settings.reconstruction)
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

    @classmethod
    def threshold(cls, crosscoder: Crosscoder, held_out: Batches) -> float:
        """0: whatever is positive is active."""
        return 0.0


def _smallest(codes: SparseCodes, norms: torch.Tensor) -> torch.Tensor:
    if codes.n_active == 0:
        return codes.value.new_full((), float("nan"))
    return (codes.value * norms.index_select(0, codes.latent)).min()
