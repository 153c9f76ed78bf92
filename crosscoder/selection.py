"""Exact selection of the largest weighted activations of a batch without sorting them all."""

from __future__ import annotations

import math

import torch

SAMPLED_TOKENS = 64
"""Tokens from which the pivot of a large batch is estimated."""
PIVOT_MARGIN = 1.3
"""The pivot aims at this multiple of the wanted number of survivors."""
SMALL_BATCH = 1 << 16
"""At or below this many activations every positive one is a candidate: no pivot is needed."""


def select_largest(
    pre: torch.Tensor, weight: torch.Tensor | None, k_total: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat indices (n,), ascending, and pre-activations (n,) of the `k_total` largest v = pre * w.

    `pre` is (B, F), `weight` (F,) or None for ones. Only v > 0 is ever kept, so n may be smaller
    than `k_total`. Equal values at the boundary are kept from the lowest flat index on.
    The pivot only decides how much is sorted, never what is kept.
    """
    for pivot in _pivots(pre, weight, k_total):
        flat = _above(pre, weight, pivot)
        if flat.numel() >= k_total or pivot == 0:
            break
    values = pre.flatten().index_select(0, flat)
    kept = _keep_largest(_weighted(values, weight, flat, pre.shape[1]), k_total)
    return flat[kept], values[kept]


def select_above(
    pre: torch.Tensor, weight: torch.Tensor, theta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat indices (n,), ascending, and pre-activations (n,) where pre * w > theta >= 0.

    The comparison is made in float64 on the products rounded to the type of `pre`.
    """
    flat = _above(pre, weight, theta)
    values = pre.flatten().index_select(0, flat)
    kept = _weighted(values, weight, flat, pre.shape[1]).double() > theta
    return flat[kept], values[kept]


def _pivots(pre: torch.Tensor, weight: torch.Tensor | None, k_total: int) -> tuple[float, ...]:
    """Lower bounds to try in turn; the last, 0, lets every positive value through."""
    if pre.numel() <= SMALL_BATCH or k_total == 0:
        return (0.0,)
    sample = pre[:: max(1, pre.shape[0] // SAMPLED_TOKENS)]
    weighted = (sample if weight is None else sample * weight).flatten()
    wanted = math.ceil(PIVOT_MARGIN * k_total * weighted.numel() / pre.numel()) + 1
    if wanted >= weighted.numel():
        return (0.0,)
    pivot = float(torch.topk(weighted, wanted, sorted=False).values.min())
    return (pivot, pivot / 2, 0.0) if math.isfinite(pivot) and pivot > 0 else (0.0,)


def _above(pre: torch.Tensor, weight: torch.Tensor | None, pivot: float) -> torch.Tensor:
    """Flat indices, ascending, of a superset of the places where pre * w > max(pivot, 0)."""
    if weight is None:
        mask = pre >= pivot if pivot > 0 else pre > 0
    else:
        # One pass over the batch: divide the pivot instead of multiplying every activation. The
        # slack covers the rounding of both; a latent of norm 0 has no floor to pass (inf, nan).
        slack = 1 - 8 * torch.finfo(pre.dtype).eps
        mask = pre > (pivot * slack) / weight
    return mask.flatten().nonzero().squeeze(1)


def _weighted(
    values: torch.Tensor, weight: torch.Tensor | None, flat: torch.Tensor, n_latents: int
) -> torch.Tensor:
    return values if weight is None else values * weight.index_select(0, flat % n_latents)


def _keep_largest(weighted: torch.Tensor, k_total: int) -> torch.Tensor:
    """Ascending positions of the `k_total` largest positive values, ties from the first on."""
    positive = weighted > 0
    if k_total == 0:
        return positive.nonzero().squeeze(1)[:0]
    if int(positive.sum()) <= k_total:
        return positive.nonzero().squeeze(1)
    boundary = torch.topk(weighted, k_total, sorted=False).values.min()
    kept = weighted >= boundary
    surplus = int(kept.sum()) - k_total
    if surplus > 0:
        tied = (weighted == boundary).nonzero().squeeze(1)
        kept[tied[tied.numel() - surplus :]] = False
    return kept.nonzero().squeeze(1)
