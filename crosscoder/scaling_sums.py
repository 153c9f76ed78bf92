"""The sums of latent scaling over blocks of documents, and the jackknife over them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from crosscoder.batch_topk import SparseCodes
from crosscoder.document_sums import MAX_GROUPS, DocumentSums, DocumentSumsBuilder
from crosscoder.kernels import sum_rows

GATHER_BYTES = 1 << 26
"""Bound on the gathered decoder rows and signals that are in memory at a time."""


def document_blocks(document: torch.Tensor, n_blocks: int) -> torch.Tensor:
    """Block of each document; it depends on the document's index only, not on its file.

    Every `n_blocks` consecutive documents go to different blocks in a random order. So blocks are
    equally large, and no regular pattern of the corpus falls into one of them.
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

    def __init__(
        self,
        n_blocks: int,
        n_latents: int,
        n_models: int,
        device: torch.device,
        n_documents: int = MAX_GROUPS,
    ) -> None:
        """`n_documents` of the whole corpus decides how documents are grouped, see DocumentSums."""

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
        self._n_groups = min(n_documents, MAX_GROUPS)
        self._is_grouped = n_documents > MAX_GROUPS
        self._documents = DocumentSumsBuilder(self._n_groups, n_latents, n_models)

    def documents(self) -> DocumentSums:
        """The same sums per document, or per group of documents."""
        return self._documents.finish()

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
        self._add_activations(codes, document)
        self._add_products(codes, document, decoder, torch.cat([residual, reconstruction], dim=1))

    def _add_activations(self, codes: SparseCodes, document: torch.Tensor) -> None:
        device = self.value.device
        value = codes.value.to(device, torch.float64)
        latent = codes.latent.to(device)
        block = document_blocks(document, self.n_blocks)[codes.token].to(device)
        key = block * self.n_latents + latent
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
        self,
        codes: SparseCodes,
        document: torch.Tensor,
        decoder: torch.Tensor,
        signals: torch.Tensor,
    ) -> None:
        """Add f <d^t, s> for each pair and each of the 2M rows s of `signals` (n, 2M, d).

        The tokens of one document and latent are summed before the product with the decoder:
        sum_i f_i <d, s_i> = <d, sum_i f_i s_i>. Only the rows of one group of (document, latent)
        keys are in memory, never a dense (F, n, d).
        """
        key, order = torch.sort(document[codes.token] * self.n_latents + codes.latent, stable=True)
        keys, group = torch.unique_consecutive(key, return_inverse=True)
        token, value = codes.token[order], codes.value[order]
        rows = signals.flatten(1)
        step = max(1, GATHER_BYTES // (rows.shape[1] * rows.element_size()))
        for start in range(0, len(keys), step):
            part = keys[start : start + step]
            low, high = torch.searchsorted(
                group, torch.tensor([start, start + len(part)], device=group.device)
            ).tolist()
            index = group[low:high] - start
            weighted = sum_rows(rows, index, token[low:high], value[low:high], len(part))
            products = torch.bmm(
                decoder[part % self.n_latents],
                weighted.view(len(part), *signals.shape[1:]).transpose(1, 2),
            )
            lengths = torch.bincount(index, minlength=len(part))
            square = torch.segment_reduce(value[low:high].square(), "sum", lengths=lengths)
            self._add_rows(part, products, square)

    def _add_rows(self, key: torch.Tensor, products: torch.Tensor, square: torch.Tensor) -> None:
        """Add products (n, M, 2M) of (document, latent) keys (n,) to their block and group."""
        device = self.residual.device
        products = products.to(device, torch.float64)
        key = key.to(device)
        document, latent = key // self.n_latents, key % self.n_latents
        own, other = products.split(self.n_models, dim=2)
        values = torch.cat([square.to(device)[:, None], own.flatten(1), other.flatten(1)], dim=1)
        group = document_blocks(document, self._n_groups) if self._is_grouped else document
        self._documents.add(group, latent, values)
        block = document_blocks(document, self.n_blocks) * self.n_latents + latent
        block, order = torch.sort(block, stable=True)
        target, lengths = torch.unique_consecutive(block, return_counts=True)
        # Each target occurs once, so nothing depends on the order of the additions.
        totals = torch.segment_reduce(products[order], "sum", lengths=lengths)
        self.residual.flatten(0, 1).index_add_(0, target, totals[:, :, : self.n_models])
        self.reconstruction.flatten(0, 1).index_add_(0, target, totals[:, :, self.n_models :])


FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Interval:
    """A point estimate with a confidence interval, per latent; NaN where it is not defined."""

    value: FloatArray
    """(F,) ratio of the sums over all blocks, without bias correction."""
    low: FloatArray
    """(F,)"""
    high: FloatArray
    """(F,)"""
    error: FloatArray
    """(F,) standard error."""
    freedom: FloatArray
    """(F,) degrees of freedom of Student's t."""
    left_out: FloatArray
    """(G, F) the ratio without each block."""


def jackknife_ratio(
    numerator: FloatArray, denominator: FloatArray, weight: FloatArray, confidence: float = 0.95
) -> Interval:
    """Ratio of two sums over blocks (G, F), with the delete-one-block jackknife interval.

    `weight` (G, F) >= 0 is what a block contributes, 0 where a latent never fires in it. Only
    blocks with a weight are deleted in turn, and the interval is
        value +- t(n - 1) * sqrt((G_j - 1) / G_j * sum_b (r_b - mean r)^2)
    where G_j counts them and r_b is the ratio without block b (Efron and Stein, 1981). A block
    without weight says nothing of the ratio, and a latent of few documents has blocks of very
    different weight, so the degrees of freedom come from their effective number
    n = (sum w)^2 / sum w^2 (Kish 1965; Satterthwaite's approximation), not from G_j: with G_j - 1
    intervals cover 92 to 94% instead of 95%. With fewer than two
    blocks the bounds are NaN.
    """
    total_numerator = numerator.sum(axis=0)
    total_denominator = denominator.sum(axis=0)
    active = weight > 0
    count = active.sum(axis=0).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = total_numerator / total_denominator
        left_out = (total_numerator - numerator) / (total_denominator - denominator)
        mean = np.where(active, left_out, 0.0).sum(axis=0) / count
        squares = np.where(active, (left_out - mean) ** 2, 0.0).sum(axis=0)
        error = np.sqrt((count - 1) / count * squares)
        effective = weight.sum(axis=0) ** 2 / (weight**2).sum(axis=0)
        half = stats.t.ppf(0.5 + confidence / 2, effective - 1) * error
    known = np.isfinite(half) & (count >= 2)
    half, error = (np.where(known, values, np.nan) for values in (half, error))
    value = np.where(np.isfinite(value), value, np.nan)
    return Interval(value, value - half, value + half, error, effective - 1, left_out)
