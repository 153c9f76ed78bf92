"""Sums and products over (token, latent) pairs: plain PyTorch everywhere, Triton on CUDA.

Every result is summed in the order of the pairs, so it is the same on every call.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib.util import find_spec

import numpy as np
import torch


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
