"""The affine map that puts the activations of every model on one scale."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from crosscoder.errors import InputError


@dataclass(frozen=True)
class Normaliser:
    """Per-model affine map z = (x - mean) / scale.

    `fit_normaliser` chooses `scale` so that the mean of ||z||^2 over tokens is d for every model
    (the "sqrt(d)" convention: an average coordinate has rms 1). One scalar a model keeps the
    relative variance of coordinates, so directions and their cosines are those of the raw space.
    """

    mean: torch.Tensor
    """(M, d) mean activation."""
    scale: torch.Tensor
    """(M,) positive divisor: the root mean square of a centred coordinate."""

    @classmethod
    def identity(cls, n_models: int, d_model: int) -> Normaliser:
        """The map that changes nothing."""
        return cls(torch.zeros(n_models, d_model), torch.ones(n_models))

    def normalise(self, x: torch.Tensor) -> torch.Tensor:
        """Raw activations (..., M, d) to normalised ones."""
        return (x - self.mean) / self.scale.unsqueeze(-1)

    def denormalise(self, z: torch.Tensor) -> torch.Tensor:
        """Normalised activations (..., M, d) to raw ones: the inverse of `normalise`."""
        return z * self.scale.unsqueeze(-1) + self.mean


def fit_normaliser(batches: Iterable[torch.Tensor]) -> Normaliser:
    """Fit mean and scale to batches (B, M, d) of raw activations, accumulated in float64.

    Raises InputError where there are no tokens, where one is not finite, or where all the
    tokens of a model are equal.
    """
    moments: _Moments | None = None
    for batch in batches:
        if moments is None:
            moments = _Moments.empty(batch.shape[1], batch.shape[2])
        moments.add(batch.double())
    if moments is None or moments.count == 0:
        raise InputError("activations: no unmasked token to train on; give more text")
    d_model = moments.mean.shape[1]
    scale = (moments.deviation / moments.count / d_model).sqrt()
    if not bool(torch.isfinite(scale).all()):
        raise InputError("activations: a value is not finite; harvest again with dtype float32")
    if bool((scale == 0).any()):
        model = int((scale == 0).nonzero()[0])
        raise InputError(f"activations: all tokens of model {model} are equal; check the layer")
    return Normaliser(moments.mean.float(), scale.float())


@dataclass
class _Moments:
    """Running mean and squared deviation, merged batch by batch (Chan, Golub, LeVeque 1983)."""

    count: int
    mean: torch.Tensor
    deviation: torch.Tensor
    """(M,) sum over tokens and coordinates of the squared distance from the mean."""

    @classmethod
    def empty(cls, n_models: int, d_model: int) -> _Moments:
        mean = torch.zeros(n_models, d_model, dtype=torch.float64)
        return cls(0, mean, torch.zeros(n_models, dtype=torch.float64))

    def add(self, batch: torch.Tensor) -> None:
        n_new = batch.shape[0]
        if n_new == 0:
            return
        batch_mean = batch.mean(0)
        shift = batch_mean - self.mean
        total = self.count + n_new
        between = shift.square().sum(-1) * (self.count * n_new / total)
        self.deviation += (batch - batch_mean).square().sum((0, 2)) + between
        self.mean += shift * (n_new / total)
        self.count = total
