"""Dedicated latents: a share of the dictionary for each model alone, the rest for all.

As in the Dedicated Feature Crosscoder (arXiv 2602.11729): the first latents belong to the first
model, the next ones to the second, and so on; weights of every other model are exactly zero there,
in encoder and decoder, so that delta_norm is exactly 0 or 1. What lies in a dedicated part is a
candidate, not a finding: the rules of isolation apply to it as to any other latent.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from crosscoder.model import Crosscoder
from crosscoder.settings import check_dedicated_share


def dedicated_latents(n_latents: int, n_models: int, share: float) -> tuple[range, ...]:
    """The latents of each model alone, `share` of the dictionary each, rounded down.

    InputError where nothing would be left to all models together.
    """
    check_dedicated_share(share, n_models)
    size = int(share * n_latents)
    return tuple(range(model * size, (model + 1) * size) for model in range(n_models))


@torch.no_grad()
def zero_excluded_weights(crosscoder: Crosscoder, share: float) -> None:
    """Set to zero what dedicated latents may not have of the other models."""
    for latents, model in _excluded(crosscoder, share):
        crosscoder.W_dec[latents, model] = 0
        crosscoder.W_enc[model, :, latents] = 0


@torch.no_grad()
def zero_excluded_gradients(crosscoder: Crosscoder, share: float) -> None:
    """Set to zero the gradients of those weights: Adam then never moves them."""
    for latents, model in _excluded(crosscoder, share):
        if crosscoder.W_dec.grad is not None:
            crosscoder.W_dec.grad[latents, model] = 0
        if crosscoder.W_enc.grad is not None:
            crosscoder.W_enc.grad[model, :, latents] = 0


def _excluded(crosscoder: Crosscoder, share: float) -> Iterator[tuple[slice, int]]:
    """Latents with a model that has no weights there."""
    config = crosscoder.config
    if share == 0:
        return
    parts = dedicated_latents(config.n_latents, config.n_models, share)
    for owner, latents in enumerate(parts):
        for model in range(config.n_models):
            if model != owner:
                yield slice(latents.start, latents.stop), model
