"""Sparse codes and the products that touch only the selected (token, latent) pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from crosscoder.selection import select_above, select_largest


@dataclass(frozen=True)
class SparseCodes:
    """Active (token, latent) pairs in ascending order of token, then latent."""

    token: torch.Tensor
    """(n,) int64 row in the batch."""
    latent: torch.Tensor
    """(n,) int64 latent index."""
    value: torch.Tensor
    """(n,) activation."""

    @property
    def n_active(self) -> int:
        """Number of active pairs."""
        return int(self.token.numel())

    def dense(self, n_tokens: int, n_latents: int) -> torch.Tensor:
        """The same codes as a dense (n_tokens, n_latents) tensor."""
        codes = self.value.new_zeros(n_tokens, n_latents)
        return codes.index_put((self.token, self.latent), self.value)


def batch_topk(weighted: torch.Tensor, k_total: int) -> SparseCodes:
    """The `k_total` largest positive values of a (B, F) tensor, ties from the lowest flat index.

    Fewer than `k_total` positive values are all kept. BatchTopK: arXiv 2412.06410.
    """
    flat, value = select_largest(weighted, None, k_total)
    return _codes(flat, value, weighted.shape[1])


def threshold_codes(pre: torch.Tensor, weight: torch.Tensor, theta: float) -> SparseCodes:
    """Pre-activations (B, F) kept where pre * weight > theta, for theta >= 0; values unscaled."""
    flat, value = select_above(pre, weight, theta)
    return _codes(flat, value, pre.shape[1])


def _codes(flat: torch.Tensor, value: torch.Tensor, n_latents: int) -> SparseCodes:
    token = flat // n_latents
    return SparseCodes(token, flat - token * n_latents, value)


class EncodedBatch(NamedTuple):
    """What the sparse encoder hands to the losses."""

    token: torch.Tensor
    """(n,) int64 token of each selected pair."""
    latent: torch.Tensor
    """(n,) int64 latent of each selected pair."""
    value: torch.Tensor
    """(n,) unscaled activation of each selected pair; carries the gradient."""
    dead_pre: torch.Tensor
    """(B, n_dead) pre-activations of the dead latents; carries the gradient."""


def sparse_encode(
    z: torch.Tensor,
    w_enc: torch.Tensor,
    b_enc: torch.Tensor,
    weight: torch.Tensor,
    k_total: int,
    dead: torch.Tensor | None = None,
) -> EncodedBatch:
    """Encode (B, M, d) by one product and keep the `k_total` largest pre * weight.

    `w_enc` is (M, d, F), `weight` (F,) without gradient, `dead` (n_dead,) latent indices. The
    gradients of `w_enc` and `b_enc` come from the selected pairs and the dead latents only.
    """
    if dead is None:
        dead = torch.empty(0, dtype=torch.int64, device=z.device)
    return EncodedBatch(*SparseEncode.apply(z, w_enc, b_enc, weight, k_total, dead))


class SparseEncode(torch.autograd.Function):
    """Encoder product and selection; keeps the selected pairs, not the (B, F) pre-activations."""

    @staticmethod
    def forward(
        ctx: Any,
        z: torch.Tensor,
        w_enc: torch.Tensor,
        b_enc: torch.Tensor,
        weight: torch.Tensor,
        k_total: int,
        dead: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """See `sparse_encode`."""
        rows = latent_rows(w_enc)
        pre = torch.addmm(b_enc, z.flatten(1), rows.T)
        flat, value = select_largest(pre, weight, k_total)
        codes = _codes(flat, value, pre.shape[1])
        ctx.save_for_backward(z, w_enc, codes.token, codes.latent, dead)
        ctx.mark_non_differentiable(codes.token, codes.latent)
        return codes.token, codes.latent, codes.value, pre.index_select(1, dead)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, _token: None, _latent: None, grad_value: torch.Tensor, grad_dead: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        """Gradients of z, w_enc and b_enc from the pairs."""
        z, w_enc, token, latent, dead = ctx.saved_tensors
        n_models, d_model, n_latents = w_enc.shape
        flat_z = z.flatten(1)
        order = order_by_latent(latent, n_latents)
        grad_rows = sum_rows(flat_z, latent[order], token[order], grad_value[order], n_latents)
        grad_bias = grad_value.new_zeros(n_latents).index_add_(0, latent, grad_value)
        if dead.numel():
            grad_rows.index_add_(0, dead, grad_dead.T @ flat_z)
            grad_bias.index_add_(0, dead, grad_dead.sum(0))
        grad_z = None
        if ctx.needs_input_grad[0]:
            rows = latent_rows(w_enc)
            grad_z = sum_rows(rows, token, latent, grad_value, z.shape[0])
            grad_z = (grad_z + grad_dead @ rows.index_select(0, dead)).view_as(z)
        grad_w_enc = grad_rows.view(n_latents, n_models, d_model).permute(1, 2, 0)
        return grad_z, grad_w_enc, grad_bias, None, None, None


class SparseDecode(torch.autograd.Function):
    """sum_j f_ij W_dec_j over the selected pairs: (n_tokens, M, d), without a bias.

    Arguments: value (n,), w_dec (F, M, d), token (n,) ascending, latent (n,), n_tokens.
    Both gradients touch the selected pairs only.
    """

    @staticmethod
    def forward(
        ctx: Any,
        value: torch.Tensor,
        w_dec: torch.Tensor,
        token: torch.Tensor,
        latent: torch.Tensor,
        n_tokens: int,
    ) -> torch.Tensor:
        """Decode the pairs."""
        ctx.save_for_backward(value, w_dec, token, latent)
        out = sum_rows(w_dec.flatten(1), token, latent, value, n_tokens)
        return out.view(n_tokens, *w_dec.shape[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of value and w_dec."""
        value, w_dec, token, latent = ctx.saved_tensors
        n_latents = w_dec.shape[0]
        flat_grad = grad.flatten(1).contiguous()
        grad_value = pair_products(flat_grad, w_dec.flatten(1), token, latent)
        order = order_by_latent(latent, n_latents)
        grad_rows = sum_rows(flat_grad, latent[order], token[order], value[order], n_latents)
        return grad_value, grad_rows.view_as(w_dec), None, None, None


def latent_rows(w_enc: torch.Tensor) -> torch.Tensor:
    """`W_enc` (M, d, F) as (F, M*d); a view where the memory lies latent by latent."""
    return w_enc.permute(2, 0, 1).flatten(1)


def sum_rows(
    rows: torch.Tensor, group: torch.Tensor, index: torch.Tensor, weight: torch.Tensor, n_out: int
) -> torch.Tensor:
    """out[g] = sum over pairs p with group[p] = g of weight[p] * rows[index[p]]: (n_out, D).

    `group` (n,) ascends. Each output row is summed in the order of its pairs, so the result
    does not depend on the number of threads.
    """
    if index.numel() == 0:
        return rows.new_zeros(n_out, rows.shape[1])
    starts = torch.searchsorted(group, torch.arange(n_out, device=group.device))
    return torch.nn.functional.embedding_bag(
        index, rows, starts, mode="sum", per_sample_weights=weight
    )


def pair_products(
    left: torch.Tensor, right: torch.Tensor, left_index: torch.Tensor, right_index: torch.Tensor
) -> torch.Tensor:
    """<left[left_index[p]], right[right_index[p]]> for each pair p: (n,).

    `left_index` ascends. No (n, D) tensor is made: this is the gradient of an embedding bag
    with respect to its per-sample weights.
    """
    if left_index.numel() == 0:
        return left.new_zeros(0)
    starts = torch.searchsorted(left_index, torch.arange(left.shape[0], device=left_index.device))
    sum_mode, no_padding = 0, -1
    products: torch.Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        left, right, right_index, starts, left_index, sum_mode, no_padding
    )
    return products


def order_by_latent(latent: torch.Tensor, n_latents: int) -> torch.Tensor:
    """Stable order (n,) that sorts pairs by latent."""
    if latent.device.type != "cpu":
        return torch.sort(latent, stable=True).indices
    # numpy sorts 16-bit keys by radix: a hundred times faster than torch's stable sort on CPU.
    keys = latent.numpy().astype(np.uint16 if n_latents <= 1 << 16 else np.int64)
    return torch.from_numpy(np.argsort(keys, kind="stable"))
