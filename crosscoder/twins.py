"""The twin of a latent: its nearest counterpart among the latents of the other side."""

from __future__ import annotations

from collections.abc import Sequence

import torch

_ROWS = 1024


@torch.no_grad()
def nearest_twins(
    decoder: torch.Tensor,
    latents: Sequence[int],
    model: int,
    other_latents: Sequence[int],
    other_model: int,
) -> dict[int, int]:
    """By latent, the other side's latent whose decoder direction is nearest to its own.

    `decoder` is (F, M, d). A latent points where it writes in its own side's `model`, a
    candidate where it writes in `other_model`; nearest is the largest cosine, ties to the
    candidate named first. A latent is never its own twin; without a candidate it has none.
    """
    own = list(latents)
    others = list(other_latents)
    if not own or not others:
        return {}
    candidates = _directions(decoder, others, other_model)
    index = torch.tensor(others)
    twins: dict[int, int] = {}
    for start in range(0, len(own), _ROWS):
        part = own[start : start + _ROWS]
        cosine = _directions(decoder, part, model) @ candidates.T
        cosine[torch.tensor(part)[:, None] == index] = -torch.inf
        best = cosine.max(dim=1)
        for latent, value, place in zip(
            part, best.values.tolist(), best.indices.tolist(), strict=True
        ):
            if value > -torch.inf:
                twins[latent] = others[place]
    return twins


def _directions(decoder: torch.Tensor, latents: Sequence[int], model: int) -> torch.Tensor:
    rows = decoder[torch.tensor(list(latents)), model].double()
    return torch.nn.functional.normalize(rows, dim=1)
