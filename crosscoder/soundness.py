"""Numbers of a crosscoder file that no crosscoder can have: they are refused when it is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from crosscoder.errors import InputError


def not_finite(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Which tensor holds how many NaN or Inf, in words; None where all numbers are finite."""
    for name, tensor in tensors.items():
        n_bad = int((~torch.isfinite(tensor)).sum())
        if n_bad:
            return f"{name} holds {n_bad:,} of {tensor.numel():,} numbers that are NaN or Inf"
    return None


def require_finite(tensors: Mapping[str, torch.Tensor], path: Path, remedy: str) -> None:
    """InputError, which names file and tensor, where a number is NaN or Inf."""
    problem = not_finite(tensors)
    if problem is not None:
        raise InputError(f"{path}: {problem}; {remedy}")


def require_positive(name: str, tensor: torch.Tensor, path: Path, remedy: str) -> None:
    """InputError where a scale is zero or negative: activations are divided by it."""
    n_bad = int((tensor <= 0).sum())
    if n_bad:
        raise InputError(
            f"{path}: {name} holds {n_bad:,} of {tensor.numel():,} scales that are not positive; "
            f"{remedy}"
        )
