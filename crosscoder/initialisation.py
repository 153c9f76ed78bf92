"""Where the decoder bias starts."""

from __future__ import annotations

from typing import Literal

import torch

WEISZFELD_STEPS = 100
WEISZFELD_TOLERANCE = 1e-5


def initial_decoder_bias(
    z: torch.Tensor, kind: Literal["zero", "mean", "geometric_median"]
) -> torch.Tensor:
    """Decoder bias (M, d) from a first batch (B, M, d) of normalised activations."""
    if kind == "zero":
        return torch.zeros_like(z[0])
    if kind == "mean":
        return z.mean(0)
    return geometric_median(z)


def geometric_median(points: torch.Tensor) -> torch.Tensor:
    """Point (M, d) with the least sum of distances to points (B, M, d), model by model.

    Weiszfeld's iteration from the mean: at most 100 steps, until no model moves by more than
    1e-5 of its spread.
    """
    x = points.double()
    median = x.mean(0)
    spread = (x - median).norm(dim=-1).mean(0)
    for _ in range(WEISZFELD_STEPS):
        weight = 1 / (x - median).norm(dim=-1, keepdim=True).clamp_min(1e-12)
        moved = (weight * x).sum(0) / weight.sum(0)
        shift = (moved - median).norm(dim=-1)
        median = moved
        if bool((shift <= WEISZFELD_TOLERANCE * spread).all()):
            break
    return median.to(points.dtype)
