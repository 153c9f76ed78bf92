"""Encoding the unmasked tokens of a store, shard by shard, with bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from crosscoder.model import Crosscoder
from crosscoder.shards import Shard
from crosscoder.sparse import SparseCodes

CHUNK_BYTES = 1 << 28
"""Bound on the dense activations or pre-activations that are in memory at a time."""


@dataclass(frozen=True)
class EncodedTokens:
    """Some unmasked tokens of a shard, in order."""

    row: torch.Tensor
    """(n,) int64 row in the shard."""
    document: torch.Tensor
    """(n,) int64 index of the document."""
    normalised: torch.Tensor
    """(n, M, d) activations in the space of the crosscoder."""
    codes: SparseCodes
    """Thresholded unscaled activations; `codes.token` indexes these n tokens."""


@torch.no_grad()
def encode_shard(crosscoder: Crosscoder, shard: Shard) -> Iterator[EncodedTokens]:
    """Encode the unmasked tokens of a shard in order, some at a time.

    The pieces depend on the shard and the crosscoder's size alone, so that encoding a shard
    twice gives the same codes to the last bit.
    """
    device = crosscoder.W_dec.device
    config = crosscoder.config
    widest = max(config.n_latents, 4 * config.n_models * config.d_model)
    n_chunk = max(1, CHUNK_BYTES // (4 * widest))
    for rows in shard.mask.nonzero().flatten().split(n_chunk):
        if len(rows) == 0:
            continue
        normalised = crosscoder.normalise(shard.activations[rows].to(device))
        yield EncodedTokens(
            row=rows,
            document=shard.document[rows].long(),
            normalised=normalised,
            codes=crosscoder.encode_thresholded(normalised),
        )


@torch.no_grad()
def restrict(crosscoder: Crosscoder, latents: Sequence[int]) -> Crosscoder:
    """A crosscoder of some latents only, in the given order.

    Under a threshold a latent's activation does not depend on the others, so these encode as
    in the whole crosscoder, at the cost of their share. The reconstruction is partial.
    """
    index = torch.as_tensor(list(latents), dtype=torch.int64, device=crosscoder.W_dec.device)
    changes = {"n_latents": len(index), "k": min(crosscoder.config.k, len(index))}
    part = Crosscoder(
        crosscoder.config.model_copy(update=changes), normaliser=crosscoder.normaliser
    ).to(crosscoder.W_dec.device)
    part.W_enc.copy_(crosscoder.W_enc[:, :, index])
    part.W_dec.copy_(crosscoder.W_dec[index])
    part.b_enc.copy_(crosscoder.b_enc[index])
    part.b_dec.copy_(crosscoder.b_dec)
    part.theta.copy_(crosscoder.theta)
    return part
