"""Small crosscoders and activations that the tests share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from crosscoder.activations import ActivationStore, write_store
from crosscoder.model import Crosscoder, CrosscoderConfig
from crosscoder.progress import Advance


def small_config(**changes: object) -> CrosscoderConfig:
    settings = {
        "n_models": 2,
        "d_model": 6,
        "n_latents": 16,
        "k": 3,
        "model_names": ("base", "tuned"),
    }
    return CrosscoderConfig.model_validate({**settings, **changes})


def random_crosscoder(
    seed: int = 0, dtype: torch.dtype = torch.float64, **changes: object
) -> Crosscoder:
    """A crosscoder whose weights have nothing in common, with norms that differ."""
    crosscoder = Crosscoder(small_config(**changes), torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in crosscoder.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.5 * parameter + 0.3 * noise)
    return crosscoder.to(dtype)


def random_batch(
    n_tokens: int = 24, seed: int = 5, n_models: int = 2, d_model: int = 6
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_tokens, n_models, d_model, generator=generator, dtype=torch.float64)


@dataclass(frozen=True)
class PlantedData:
    store: ActivationStore
    directions: torch.Tensor
    """(n, M, d): shared ones first, then base-only, then tuned-only."""
    n_shared: int
    n_own: int

    def only(self, model: int) -> torch.Tensor:
        """(n_own, d) directions that only one model has."""
        start = self.n_shared + model * self.n_own
        return self.directions[start : start + self.n_own, model]

    @property
    def shared(self) -> torch.Tensor:
        """(n_shared, d) directions of both models."""
        return self.directions[: self.n_shared, 0]


def planted_store(directory: Path, n_tokens: int = 6000, d_model: int = 32) -> PlantedData:
    """Tokens of 12 shared, 4 base-only and 4 tuned-only directions; the second model is 3 times
    as large."""
    generator = torch.Generator().manual_seed(1)
    n_shared, n_own = 12, 4
    n_directions = n_shared + 2 * n_own
    directions = torch.randn(n_directions, 2, d_model, generator=generator)
    directions /= directions.norm(dim=-1, keepdim=True)
    directions[:n_shared, 1] = directions[:n_shared, 0]
    directions[n_shared : n_shared + n_own, 1] = 0
    directions[n_shared + n_own :, 0] = 0
    fires = torch.rand(n_tokens, n_directions, generator=generator) < 0.1
    strength = fires * (1 + torch.rand(n_tokens, n_directions, generator=generator))
    x = torch.einsum("nf,fmd->nmd", strength, directions)
    x += 0.02 * torch.randn(x.shape, generator=generator)
    x += torch.randn(2, d_model, generator=generator)
    x[:, 1] *= 3
    store = write_store(directory, x, model_names=("base", "tuned"))
    return PlantedData(store.split(0.1, 0), directions, n_shared, n_own)


class StopAfter:
    """A progress that interrupts the work once so many units are done."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        def advance(n: int) -> None:
            self._left -= n
            if self._left <= 0:
                raise KeyboardInterrupt

        yield advance

    def say(self, line: str) -> None:
        """Say nothing."""
