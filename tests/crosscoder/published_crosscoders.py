"""Crosscoders for the tests of published layouts, small enough to be computed densely."""

from __future__ import annotations

from typing import Any

import torch

from crosscoder.model import Crosscoder, CrosscoderConfig, Normaliser

N_LATENTS, WIDTH, NAMES = 12, 5, ("base", "chat")


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def forward(crosscoder: Crosscoder, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    z = crosscoder.normalise(x)
    codes = crosscoder.encode_thresholded(z)
    decoded = crosscoder.denormalise(crosscoder.decode(codes, len(x)))
    return codes.dense(len(x), N_LATENTS), decoded


def own_crosscoder(normalisation: Any, **changes: Any) -> Crosscoder:
    config = CrosscoderConfig(
        n_models=2,
        d_model=WIDTH,
        n_latents=N_LATENTS,
        k=3,
        model_names=NAMES,
        normalisation=normalisation,
        **changes,
    )
    normaliser = None
    if normalisation == "affine":
        normaliser = Normaliser(5 * draw(2, WIDTH, seed=7), torch.tensor([2.0, 0.5]))
    crosscoder = Crosscoder(config, torch.Generator().manual_seed(3), normaliser)
    with torch.no_grad():
        crosscoder.W_dec.mul_(0.3 + draw(N_LATENTS, 2, 1, seed=8).abs())
        crosscoder.b_enc.copy_(0.2 * draw(N_LATENTS, seed=9))
        crosscoder.b_dec.copy_(draw(2, WIDTH, seed=10))
    crosscoder.theta.fill_(0.0 if config.activation == "l1" else 0.75)
    return crosscoder
