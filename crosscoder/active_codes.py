"""Where latents are active in a shard, latent by latent, and their strongest token a document."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from crosscoder.encoding import encode_shard
from crosscoder.model import Crosscoder
from crosscoder.reservoir import IntArray
from crosscoder.shards import Shard
from crosscoder.sparse import order_by_latent


@dataclass(frozen=True)
class ActiveCodes:
    """Where some latents are active in a shard, ordered by latent, then row."""

    latent: IntArray
    """(n,) place in the list of wanted latents."""
    row: IntArray
    """(n,) row in the shard."""
    value: NDArray[np.float32]
    """(n,) unscaled activation."""
    n_rows: int
    """Rows of the shard."""

    def windows(
        self, latent: IntArray, start: IntArray, end: IntArray, length: int
    ) -> NDArray[np.float32]:
        """(m, length) activations of `latent` on the rows [start, end), 0 after the end."""
        key = self.latent * self.n_rows + self.row
        low = np.searchsorted(key, latent * self.n_rows + start)
        high = np.searchsorted(key, latent * self.n_rows + end)
        counts = high - low
        window = np.repeat(np.arange(len(latent)), counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        code = np.repeat(low, counts) + within
        values = np.zeros((len(latent), length), dtype=np.float32)
        values[window, self.row[code] - start[window]] = self.value[code]
        return values


@dataclass(frozen=True)
class Maxima:
    """The strongest token of each latent in each document where it fires."""

    latent: IntArray
    """(n,) place in the list of wanted latents, ascending."""
    document: IntArray
    """(n,) ascending within a latent."""
    row: IntArray
    """(n,) row in the shard; the first one on a tie."""
    value: NDArray[np.float32]
    """(n,) unscaled activation there."""


def active_codes(part: Crosscoder, shard: Shard) -> ActiveCodes:
    """Encode a shard's unmasked tokens with a crosscoder of the wanted latents only."""
    latents, rows, values = [], [], []
    for tokens in encode_shard(part, shard):
        latents.append(tokens.codes.latent.cpu())
        rows.append(tokens.row[tokens.codes.token.cpu()])
        values.append(tokens.codes.value.float().cpu())
    if not latents:
        none = np.empty(0, dtype=np.int64)
        return ActiveCodes(none, none, none.astype(np.float32), shard.n_tokens)
    latent = torch.cat(latents)
    # The codes come row by row, so a stable sort by latent leaves the rows of each ascending.
    order = order_by_latent(latent, part.config.n_latents)
    return ActiveCodes(
        latent[order].numpy(),
        torch.cat(rows)[order].numpy(),
        torch.cat(values)[order].numpy(),
        shard.n_tokens,
    )


def document_maxima(codes: ActiveCodes, shard: Shard) -> Maxima:
    """The strongest active token of every (latent, document) of a shard."""
    if len(codes.row) == 0:
        none = codes.row
        return Maxima(none, none, none, codes.value)
    document = shard.document.numpy()[codes.row].astype(np.int64)
    begins = np.ones(len(document), dtype=bool)
    begins[1:] = (np.diff(codes.latent) != 0) | (np.diff(document) != 0)
    first = np.flatnonzero(begins)
    largest = np.maximum.reduceat(codes.value, first)
    group = np.cumsum(begins) - 1
    at_maximum = np.flatnonzero(codes.value == largest[group])
    _, place = np.unique(group[at_maximum], return_index=True)
    strongest = at_maximum[place]
    return Maxima(codes.latent[first], document[first], codes.row[strongest], largest)
