"""Exact selection of the largest weighted activations of a batch without sorting them all."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from crosscoder.kernels import true_positions


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


SAMPLED_TOKENS = 32
"""Tokens from which the pivot of a large batch is estimated."""
PIVOT_MARGIN = 1.3
"""The pivot aims at this multiple of the wanted number of survivors."""
SMALL_BATCH = 1 << 16
"""At or below this many activations every positive one is a candidate: no pivot is needed."""


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
