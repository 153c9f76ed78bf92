"""Exact selection of the largest activations of a batch, and sums over (token, latent) pairs.

The selection does not sort the whole batch. Sums are plain PyTorch everywhere, Triton on CUDA; each
is made in the order of the pairs, so it is the same on every call.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import numpy as np
import torch

SAMPLED_TOKENS = 32
"""Tokens from which the pivot of a large batch is estimated."""
PIVOT_MARGIN = 1.3
"""The pivot aims at this multiple of the wanted number of survivors."""
SMALL_BATCH = 1 << 16
"""At or below this many activations every positive one is a candidate: no pivot is needed."""


def sum_rows(
    rows: torch.Tensor,
    group: torch.Tensor,
    index: torch.Tensor,
    weight: torch.Tensor,
    n_out: int,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """out[g] = sum over pairs p with group[p] = g of weight[p] * rows[index[p]]: (n_out, D).

    `group` (n,) ascends. Each output row is summed in the order of its pairs, so the result
    does not depend on the number of threads. It is written into `out` where one is given.
    """
    starts = group_starts(group, n_out)
    if uses_triton(rows):
        from crosscoder.triton_kernels import sum_rows as sum_rows_on_gpu

        return sum_rows_on_gpu(rows, starts, index, weight, out)
    if out is not None and _has_sparse_blas(rows):
        return _sum_rows_into(out, rows, starts, index, weight)
    if index.numel() == 0:
        total = rows.new_zeros(n_out, rows.shape[1])
    else:
        total = torch.nn.functional.embedding_bag(
            index, rows, starts[:-1], mode="sum", per_sample_weights=weight
        )
    return total if out is None else out.copy_(total)


def pair_products(
    left: torch.Tensor, right: torch.Tensor, left_index: torch.Tensor, right_index: torch.Tensor
) -> torch.Tensor:
    """<left[left_index[p]], right[right_index[p]]> for each pair p: (n,).

    `left_index` ascends. No (n, D) tensor is made: this is the gradient of an embedding bag
    with respect to its per-sample weights. Fastest where `right` is the smaller of the two, for
    its rows are read at random.
    """
    if left_index.numel() == 0:
        return left.new_zeros(0)
    if uses_triton(left):
        from crosscoder.triton_kernels import pair_products as pair_products_on_gpu

        return pair_products_on_gpu(left, right, left_index, right_index)
    starts = group_starts(left_index, left.shape[0])[:-1]
    sum_mode, no_padding = 0, -1
    products: torch.Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        left, right, right_index, starts, left_index, sum_mode, no_padding
    )
    return products


def group_starts(group: torch.Tensor, n_groups: int) -> torch.Tensor:
    """(n_groups + 1,) position at which each group of an ascending column starts, and the end."""
    return torch.searchsorted(group, torch.arange(n_groups + 1, device=group.device))


def order_by_latent(latent: torch.Tensor, n_latents: int) -> torch.Tensor:
    """Stable order (n,) that sorts pairs by latent."""
    if latent.device.type != "cpu":
        return torch.sort(latent, stable=True).indices
    # numpy sorts 16-bit keys by radix: a hundred times faster than torch's stable sort on CPU.
    keys = latent.numpy().astype(np.uint16 if n_latents <= 1 << 16 else np.int64)
    return torch.from_numpy(np.argsort(keys, kind="stable"))


def true_positions(mask: torch.Tensor) -> torch.Tensor:
    """Flat positions (n,), ascending, at which a boolean tensor is true."""
    if mask.device.type != "cpu":
        return mask.flatten().nonzero().squeeze(1)
    # numpy reads whole words of a sparse mask at a time: four times faster than torch on CPU.
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def uses_triton(tensor: torch.Tensor) -> bool:
    """Whether the Triton kernels serve a tensor: on CUDA, where Triton is installed."""
    return tensor.is_cuda and _triton_is_installed()


@cache
def _triton_is_installed() -> bool:
    return find_spec("triton") is not None


def _has_sparse_blas(rows: torch.Tensor) -> bool:
    floats = (torch.float32, torch.float64)
    return rows.device.type == "cpu" and rows.dtype in floats and _sparse_blas_is_built_in()


@cache
def _sparse_blas_is_built_in() -> bool:
    with warnings.catch_warnings():
        # PyTorch says once a process that the interface of such tensors may still change.
        warnings.simplefilter("ignore", UserWarning)
        torch.empty(1, 1).to_sparse_csr()
    return bool(torch.backends.mkl.is_available())


def _sum_rows_into(
    out: torch.Tensor,
    rows: torch.Tensor,
    starts: torch.Tensor,
    index: torch.Tensor,
    weight: torch.Tensor,
) -> torch.Tensor:
    """The sum as a product of a sparse matrix, into memory that is there already."""
    size = (out.shape[0], rows.shape[0])
    pairs = torch.sparse_csr_tensor(starts, index, weight, size, check_invariants=False)
    return torch.addmm(out, pairs, rows, beta=0, out=out)


class Workspace:
    """Memory by name. The system hands out new memory page by page, which costs a large part of
    the time that it takes to fill it.

    A tensor taken twice under one name shares its memory with the first: gradients made in a
    workspace must be used up before the next step makes its own.
    """

    def __init__(self) -> None:
        self._memory: dict[str, torch.Tensor] = {}

    def take(
        self,
        name: str,
        shape: tuple[int, ...],
        like: torch.Tensor,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """A tensor of arbitrary content, on the device of `like`, of its type unless given."""
        dtype = dtype or like.dtype
        size = math.prod(shape)
        memory = self._memory.get(name)
        fits = memory is not None and memory.numel() >= size
        if not fits or memory is None or (memory.dtype, memory.device) != (dtype, like.device):
            # The old memory goes before the new one is asked for.
            memory = None
            self._memory.pop(name, None)
            memory = torch.empty(size, dtype=dtype, device=like.device)
            self._memory[name] = memory
        return memory[:size].view(shape)


@dataclass(frozen=True)
class Preactivations:
    """pre = product + bias of a batch, without the pass over it that would add the bias."""

    product: torch.Tensor
    """(B, F) encoder product; `pre` itself where `bias` is None."""
    bias: torch.Tensor | None = None
    """(F,)"""
    weight: torch.Tensor | None = None
    """(F,) n_j of v = pre * n_j; None for ones."""

    @property
    def n_latents(self) -> int:
        """F."""
        return self.product.shape[1]

    def at(self, flat: torch.Tensor) -> torch.Tensor:
        """Pre-activations (n,) at flat positions."""
        values = self.product.flatten().index_select(0, flat)
        if self.bias is None:
            return values
        return values + self.bias.index_select(0, flat % self.n_latents)

    def weighted(self, values: torch.Tensor, flat: torch.Tensor) -> torch.Tensor:
        """v (n,) of pre-activations at flat positions."""
        if self.weight is None:
            return values
        return values * self.weight.index_select(0, flat % self.n_latents)

    def above(self, pivot: float, workspace: Workspace | None = None) -> torch.Tensor:
        """Flat positions, ascending, of a superset of the places where v > max(pivot, 0)."""
        product, bias, weight = self.product, self.bias, self.weight
        # One pass over the batch: divide the pivot instead of multiplying every activation. The
        # slack covers the rounding of all that is left out of that pass; a latent of norm 0 has
        # no floor to pass (inf, nan).
        slack = 8 * torch.finfo(product.dtype).eps
        floor = product.new_full((self.n_latents,), pivot * (1 - slack))
        if weight is not None:
            floor = floor / weight
        if bias is not None:
            floor = floor - bias - slack * (floor.abs() + bias.abs())
        if workspace is None:
            return true_positions(product > floor)
        mask = workspace.take("mask", tuple(product.shape), product, torch.bool)
        return true_positions(torch.gt(product, floor, out=mask))


def select_largest(
    pre: Preactivations, k_total: int, workspace: Workspace | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat indices (n,), ascending, and pre-activations (n,) of the `k_total` largest v.

    Only v > 0 is ever kept, so n may be smaller than `k_total`. Equal values at the boundary are
    kept from the lowest flat index on. The pivot only decides how much is sorted, never what is
    kept.
    """
    for pivot in _pivots(pre, k_total):
        flat = pre.above(pivot, workspace)
        if flat.numel() >= k_total or pivot == 0:
            break
    values = pre.at(flat)
    kept = _keep_largest(pre.weighted(values, flat), k_total)
    return flat[kept], values[kept]


def select_above(pre: Preactivations, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat indices (n,), ascending, and pre-activations (n,) where v > theta >= 0.

    The comparison is made in float64 on the products rounded to the type of `pre`.
    """
    flat = pre.above(theta)
    values = pre.at(flat)
    kept = pre.weighted(values, flat).double() > theta
    return flat[kept], values[kept]


def _pivots(pre: Preactivations, k_total: int) -> tuple[float, ...]:
    """Lower bounds to try in turn; the last, 0, lets every positive value through."""
    n_tokens, size = pre.product.shape[0], pre.product.numel()
    if size <= SMALL_BATCH or k_total == 0:
        return (0.0,)
    sample = pre.product[:: max(1, n_tokens // SAMPLED_TOKENS)]
    if pre.bias is not None:
        sample = sample + pre.bias
    if pre.weight is not None:
        sample = sample * pre.weight
    wanted = math.ceil(PIVOT_MARGIN * k_total * sample.numel() / size) + 1
    if wanted >= sample.numel():
        return (0.0,)
    pivot = float(torch.topk(sample.flatten(), wanted, sorted=False).values.min())
    return (pivot, pivot / 2, 0.0) if math.isfinite(pivot) and pivot > 0 else (0.0,)


def _keep_largest(weighted: torch.Tensor, k_total: int) -> torch.Tensor:
    """Ascending positions of the `k_total` largest positive values, ties from the first on."""
    positive = weighted > 0
    if k_total == 0:
        return true_positions(positive)[:0]
    if int(positive.sum()) <= k_total:
        return true_positions(positive)
    boundary = torch.topk(weighted, k_total, sorted=False).values.min()
    kept = weighted >= boundary
    surplus = int(kept.sum()) - k_total
    if surplus > 0:
        tied = true_positions(weighted == boundary)
        kept[tied[tied.numel() - surplus :]] = False
    return true_positions(kept)
