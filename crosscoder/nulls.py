"""Null runs of isolation: what the rules find where there is nothing to find."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from crosscoder.activations import ActivationStore
from crosscoder.memory_store import MemoryStore, memory_store


def noisy_copy_store(
    store: ActivationStore,
    model: str,
    noise: float,
    seed: int,
    names: Sequence[str],
    max_tokens: int | None = None,
) -> MemoryStore:
    """The unmasked tokens of one model twice, the second time with noise added, in memory.

    `noise` is the standard deviation of the Gaussian noise in units of the root mean square of the
    model's centred activations; `names` are the two names. A model against a copy that is exactly
    equal proves nothing: with shared initialisation its latents are equal by construction. With
    `max_tokens` reading ends with the first shard that reaches it.
    """
    index = store.model_names.index(model)
    rows, documents = [], []
    for shard in store.shards():
        rows.append(shard.activations[shard.mask, index])
        documents.append(shard.document[shard.mask])
        if max_tokens is not None and sum(map(len, documents)) >= max_tokens:
            break
    x = torch.cat(rows)
    spread = (x - x.mean(0)).square().mean().sqrt()
    drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    return memory_store(
        torch.stack([x, x + noise * spread * drawn], 1), torch.cat(documents), names
    )
