"""Measures a trained crosscoder on held-out tokens: theta, FVE, L0, inactive latents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import AliasChoices, Field

from crosscoder.batch_topk import SparseCodes
from crosscoder.errors import InputError
from crosscoder.model import Crosscoder
from crosscoder.shards import Shard

Batches = Callable[[], Iterable[torch.Tensor]]
"""Starts a pass over raw activations (B, M, d)."""


@dataclass(frozen=True)
class ModelFve:
    """Reconstruction of one subject model."""

    model: str
    fve: float
    """1 - sum ||z - zhat||^2 / sum ||z - mean z||^2, both sums over the whole set of tokens."""


@dataclass(frozen=True)
class Quality:
    """Reconstruction by the thresholded code f over a set of tokens."""

    n_tokens: int
    fve: tuple[ModelFve, ...]
    """In the order of the models. The same in raw and normalised space: a model has one scale."""
    l0: float
    """Mean number of active latents per token."""
    inactive_share: Annotated[
        float, Field(validation_alias=AliasChoices("inactive_share", "silent_share"))
    ]
    """Fraction of the latents that are active on none of the tokens; result.json of earlier runs
    calls it `silent_share`."""


@torch.no_grad()
def calibrate_theta(crosscoder: Crosscoder, batches: Batches, k: int) -> float:
    """The theta at which exactly k * N pairs (v > theta) of the N tokens are active.

    An exact order statistic of v over all tokens: the middle between the smallest v that stays
    and the largest that goes, in float64, so that rounding differences between batch shapes do
    not move a pair across. 0 where fewer than k * N values are positive. Memory is bounded by
    2 * k * N values and one batch. Raises InputError where there are no tokens.
    """
    n_tokens = sum(batch.shape[0] for batch in batches())
    if n_tokens == 0:
        raise InputError("theta: no held-out token to calibrate on; raise held_out or give text")
    wanted = k * n_tokens
    largest = torch.empty(0)
    for batch in batches():
        largest = torch.cat([largest, _positive_weighted(crosscoder, batch)])
        if largest.numel() > 2 * (wanted + 1):
            largest = torch.topk(largest, wanted + 1, sorted=False).values
    if largest.numel() <= wanted:
        return 0.0
    last_two = torch.topk(largest, wanted + 1).values[-2:].double()
    return float(last_two.mean())


def _positive_weighted(crosscoder: Crosscoder, batch: torch.Tensor) -> torch.Tensor:
    """All v > 0 of a raw batch, on the CPU: (n,)."""
    z = crosscoder.normalise(batch.to(crosscoder.W_dec.device))
    weighted = crosscoder.encode(z) * crosscoder.code_norms()
    return weighted[weighted > 0].cpu()


@torch.no_grad()
def measure_quality(crosscoder: Crosscoder, batches: Batches) -> Quality:
    """FVE per model, L0 and the fraction of inactive latents; sums in float64.

    Raises InputError where there are no tokens or theta is not calibrated.
    """
    n_models = crosscoder.config.n_models
    squared_error = torch.zeros(n_models, dtype=torch.float64)
    squared = torch.zeros(n_models, dtype=torch.float64)
    total = torch.zeros(n_models, crosscoder.config.d_model, dtype=torch.float64)
    fired = torch.zeros(crosscoder.config.n_latents, dtype=torch.bool)
    n_tokens, n_active = 0, 0
    for batch in batches():
        z = crosscoder.normalise(batch.to(crosscoder.W_dec.device))
        codes = crosscoder.encode_thresholded(z)
        error = (z - crosscoder.decode(codes, z.shape[0])).cpu().double()
        z = z.cpu().double()
        squared_error += error.square().sum((0, 2))
        squared += z.square().sum((0, 2))
        total += z.sum(0)
        fired[codes.latent.cpu()] = True
        n_tokens += z.shape[0]
        n_active += codes.n_active
    if n_tokens == 0:
        raise InputError("quality: no held-out token to measure on; raise held_out or give text")
    spread = squared - total.square().sum(-1) / n_tokens
    fve = (1 - squared_error / spread).tolist()
    return Quality(
        n_tokens=n_tokens,
        fve=tuple(map(ModelFve, crosscoder.config.model_names, fve)),
        l0=n_active / n_tokens,
        inactive_share=1 - float(fired.double().mean()),
    )


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
