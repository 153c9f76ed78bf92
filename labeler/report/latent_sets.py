"""The latents of one side as a report shows them, and why these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosscoder.settings import SideName


@dataclass(frozen=True)
class ScalingCloud:
    """Latent scaling of every latent of a crosscoder for one ordered pair of models."""

    delta_norm: NDArray[np.float64]
    """(n,) 1 = only the target model; NaN = undefined."""
    nu_error: NDArray[np.float64]
    """(n,)"""
    nu_reconstruction: NDArray[np.float64]
    """(n,)"""
    chosen: NDArray[np.bool_]
    """(n,) latents of the set."""


@dataclass(frozen=True)
class LatentSetView:
    """One side of a comparison: which latents, and why these."""

    side: SideName
    name: str
    label: str
    """Name of the side in the report."""
    rule: str
    rule_params: dict[str, Any]
    message: str | None
    target_model: str | None
    against_model: str | None
    size: int
    cloud: ScalingCloud | None = None

    @property
    def is_imported(self) -> bool:
        """Whether the latents came from a file."""
        return self.rule == "imported"
