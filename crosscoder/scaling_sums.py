"""What latent scaling adds up in one sparse pass: sums per block of documents and latent."""

from __future__ import annotations

import numpy as np
import torch

from crosscoder.kernels import sum_rows
from crosscoder.sparse import SparseCodes

GATHER_BYTES = 1 << 26
"""Bound on the gathered decoder rows and signals that are in memory at a time."""


def document_blocks(document: torch.Tensor, n_blocks: int) -> torch.Tensor:
    """Block of each document: a function of its index alone, whatever file it lies in.

    Every run of `n_blocks` documents is dealt out one to a block, in an order of its own, so
    blocks are equally large and no regular pattern of the corpus falls into one of them.
    """
    if document.numel() == 0:
        return document.long()
    run, place = document.cpu().long() // n_blocks, document.cpu().long() % n_blocks
    first, last = int(run.min()), int(run.max())
    orders = [
        np.random.default_rng([n_blocks, index]).permutation(n_blocks)
        for index in range(first, last + 1)
    ]
    return torch.from_numpy(np.stack(orders))[run - first, place].to(document.device)


class ScalingSums:
    """float64 sums over tokens, per block g and latent j; t is a decoder, m a model.

    With the residual e^m = x^m - xhat^m and the unscaled thresholded activation f:
    residual[g, j, t, m] = sum f_j <d_j^t, e^m> and
    reconstruction[g, j, t, m] = sum f_j <d_j^t, xhat^m>.
    """

    def __init__(self, n_blocks: int, n_latents: int, n_models: int, device: torch.device) -> None:
        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.n_blocks = n_blocks
        self.n_latents = n_latents
        self.n_models = n_models
        self.n_tokens = 0
        self.n_active = zeros(n_blocks, n_latents)
        self.value = zeros(n_blocks, n_latents)
        self.square = zeros(n_blocks, n_latents)
        self.residual = zeros(n_blocks, n_latents, n_models, n_models)
        self.reconstruction = zeros(n_blocks, n_latents, n_models, n_models)
        self.n_documents = zeros(n_latents)
        self._last_document = torch.full((n_latents,), -1, device=device)
        self.max_activation = zeros(n_latents)

    def add(
        self,
        codes: SparseCodes,
        document: torch.Tensor,
        decoder: torch.Tensor,
        reconstruction: torch.Tensor,
        residual: torch.Tensor,
    ) -> None:
        """Add some tokens; documents ascend within a call and from call to call.

        `document` (n,) is the document of each token, `decoder` (F, M, d), `reconstruction` and
        `residual` (n, M, d) in the space the crosscoder works in.
        """
        self.n_tokens += len(document)
        if codes.n_active == 0:
            return
        key = document_blocks(document, self.n_blocks)[codes.token] * self.n_latents + codes.latent
        self._add_activations(codes, key, document)
        self._add_products(codes, key, decoder, torch.cat([residual, reconstruction], dim=1))

    def _add_activations(
        self, codes: SparseCodes, key: torch.Tensor, document: torch.Tensor
    ) -> None:
        device = self.value.device
        value = codes.value.to(device, torch.float64)
        key, latent = key.to(device), codes.latent.to(device)
        self.n_active.view(-1).index_add_(0, key, torch.ones_like(value))
        self.value.view(-1).index_add_(0, key, value)
        self.square.view(-1).index_add_(0, key, value * value)
        self.max_activation.scatter_reduce_(0, latent, value, "amax")
        pairs = torch.unique(document[codes.token].to(device) * self.n_latents + latent)
        seen, latent = pairs // self.n_latents, pairs % self.n_latents
        # A document may go on from the call before; it counts once.
        new = latent[seen > self._last_document[latent]]
        self.n_documents += torch.bincount(new, minlength=self.n_latents)
        self._last_document.scatter_reduce_(0, latent, seen, "amax")

    def _add_products(
        self, codes: SparseCodes, key: torch.Tensor, decoder: torch.Tensor, signals: torch.Tensor
    ) -> None:
        """Add f <d^t, s> for each pair and each of the 2M rows s of `signals` (n, 2M, d).

        The tokens of one block and latent are summed before the product with the decoder:
        sum_i f_i <d, s_i> = <d, sum_i f_i s_i>. Only the rows of one group of (block, latent)
        keys are in memory, never a dense (F, n, d).
        """
        key, order = torch.sort(key, stable=True)
        keys, group = torch.unique_consecutive(key, return_inverse=True)
        token, value = codes.token[order], codes.value[order]
        rows = signals.flatten(1)
        step = max(1, GATHER_BYTES // (rows.shape[1] * rows.element_size()))
        for start in range(0, len(keys), step):
            part = keys[start : start + step]
            low, high = torch.searchsorted(
                group, torch.tensor([start, start + len(part)], device=group.device)
            ).tolist()
            weighted = sum_rows(
                rows, group[low:high] - start, token[low:high], value[low:high], len(part)
            )
            products = torch.bmm(
                decoder[part % self.n_latents],
                weighted.view(len(part), *signals.shape[1:]).transpose(1, 2),
            ).to(self.residual.device, torch.float64)
            target = part.to(self.residual.device)
            # Each key occurs once, so nothing depends on the order of the additions.
            self.residual.flatten(0, 1).index_add_(0, target, products[:, :, : self.n_models])
            self.reconstruction.flatten(0, 1).index_add_(0, target, products[:, :, self.n_models :])
