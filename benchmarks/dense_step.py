"""The training step written densely in plain PyTorch: what benchmarks/train_step.py compares with.

The same objective, optimiser and clipping as `crosscoder.trainer`, from the same weights, with
every product dense and every gradient left to autograd.
"""

from __future__ import annotations

import torch
from torch import nn

from crosscoder.config import TrainConfig
from crosscoder.model import Crosscoder


class DenseStep:
    """A BatchTopK crosscoder with AuxK, trained by dense products."""

    def __init__(
        self, crosscoder: Crosscoder, config: TrainConfig, dead: torch.Tensor, learning_rate: float
    ) -> None:
        """Starts from a copy of the weights; `dead` (n_dead,) stays what it is."""
        shape = crosscoder.W_dec.shape
        self._k, self._d_model = crosscoder.config.k, shape[2]
        # Latent by latent, both matrices as they lie in memory: (F, M*d).
        self._w_enc = nn.Parameter(crosscoder.W_enc.detach().permute(2, 0, 1).flatten(1).clone())
        self._w_dec = nn.Parameter(crosscoder.W_dec.detach().clone())
        self._b_enc = nn.Parameter(crosscoder.b_enc.detach().clone())
        self._b_dec = nn.Parameter(crosscoder.b_dec.detach().clone())
        self._weights = [self._w_enc, self._w_dec, self._b_enc, self._b_dec]
        self._adam = torch.optim.Adam(self._weights, lr=learning_rate, fused=True)
        self._aux = config.aux_coefficient
        self._max_grad_norm = config.max_grad_norm
        self._dead = dead

    def step(self, z: torch.Tensor) -> float:
        """One step on activations (B, M, d); the loss before it."""
        z = z.flatten(1)
        a = torch.addmm(self._b_enc, z, self._w_enc.T).relu()
        norms = self._w_dec.detach().norm(dim=-1).sum(-1)
        rows = self._w_dec.flatten(1)
        error = z - self._kept(a, norms) @ rows - self._b_dec.flatten()
        loss = error.square().sum() / z.shape[0]
        if self._dead.numel() and self._aux:
            loss = loss + self._aux * self._auxiliary(a, norms, rows, error.detach())
        torch.autograd.backward(loss)
        if self._max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self._weights, self._max_grad_norm)
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        return float(loss.detach())

    def _kept(self, a: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
        """The k*B largest v of the batch, unscaled, as a dense (B, F) tensor."""
        weighted = (a.detach() * norms).flatten()
        chosen = torch.topk(weighted, self._k * a.shape[0], sorted=False).indices
        del weighted
        kept = a.new_zeros(a.numel()).scatter_(0, chosen, a.flatten().gather(0, chosen))
        return kept.view_as(a)

    def _auxiliary(
        self, a: torch.Tensor, norms: torch.Tensor, rows: torch.Tensor, residual: torch.Tensor
    ) -> torch.Tensor:
        activation = a.index_select(1, self._dead)
        k_aux = min(self._d_model // 2, self._dead.numel())
        if k_aux < self._dead.numel():
            weighted = activation.detach() * norms[self._dead]
            chosen = torch.topk(weighted, k_aux, dim=1, sorted=False).indices
            activation = torch.zeros_like(activation).scatter_(
                1, chosen, activation.gather(1, chosen)
            )
        estimate = activation @ rows.index_select(0, self._dead)
        spread = (residual - residual.mean(0)).square().sum()
        return (residual - estimate).square().sum() / spread
