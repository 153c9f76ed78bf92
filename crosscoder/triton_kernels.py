"""The pair kernels in Triton; needs Triton, which PyTorch for CUDA brings along.

Sums are made in float32, in the order of the pairs, without atomics: the same on every call.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK_D = 256
"""Elements of a row that one program holds."""


@triton.jit  # type: ignore[untyped-decorator]
def _sum_rows_kernel(  # type: ignore[no-untyped-def]
    rows, starts, index, weight, out, width: tl.constexpr, block: tl.constexpr
):
    """One program sums one tile of one output row over the pairs of its group."""
    group = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < width
    total = tl.zeros([block], dtype=tl.float32)
    for pair in range(tl.load(starts + group), tl.load(starts + group + 1)):
        row = tl.load(index + pair)
        factor = tl.load(weight + pair).to(tl.float32)
        total += factor * tl.load(rows + row * width + column, mask=inside, other=0).to(tl.float32)
    tl.store(out + group * width + column, total, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _pair_products_kernel(  # type: ignore[no-untyped-def]
    left, right, left_index, right_index, out, width: tl.constexpr, block: tl.constexpr
):
    """One program multiplies the two rows of one pair, tile by tile."""
    pair = tl.program_id(0).to(tl.int64)
    left_row = left + tl.load(left_index + pair) * width
    right_row = right + tl.load(right_index + pair) * width
    total = tl.zeros([block], dtype=tl.float32)
    for start in range(0, width, block):
        column = start + tl.arange(0, block)
        inside = column < width
        a = tl.load(left_row + column, mask=inside, other=0).to(tl.float32)
        b = tl.load(right_row + column, mask=inside, other=0).to(tl.float32)
        total += a * b
    tl.store(out + pair, tl.sum(total, 0))


def sum_rows(
    rows: torch.Tensor,
    starts: torch.Tensor,
    index: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """As `crosscoder.kernels.sum_rows`, of groups that begin at `starts` (n_out + 1,)."""
    rows, n_out, width = rows.contiguous(), starts.numel() - 1, rows.shape[1]
    if out is None:
        out = rows.new_empty(n_out, width)
    if out.numel():
        block = _block(width)
        grid = (n_out, triton.cdiv(width, block))
        _sum_rows_kernel[grid](rows, starts, index, weight.contiguous(), out, width, block)
    return out


def pair_products(
    left: torch.Tensor, right: torch.Tensor, left_index: torch.Tensor, right_index: torch.Tensor
) -> torch.Tensor:
    """As `crosscoder.kernels.pair_products`."""
    left, right, width = left.contiguous(), right.contiguous(), left.shape[1]
    out = left.new_empty(left_index.numel())
    if out.numel():
        _pair_products_kernel[(out.numel(),)](
            left, right, left_index, right_index, out, width, _block(width)
        )
    return out


def _block(width: int) -> int:
    return min(BLOCK_D, int(triton.next_power_of_2(width)))
