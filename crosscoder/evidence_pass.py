"""One pass over the data that keeps, for every wanted latent, the documents worth showing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from crosscoder.active_codes import ActiveCodes, Maxima, active_codes, document_maxima
from crosscoder.evidence_config import EvidenceConfig, with_spare
from crosscoder.model import Crosscoder
from crosscoder.reservoir import (
    Entries,
    FloatArray,
    IntArray,
    Placed,
    Reservoir,
    WindowActivations,
    hashed_priority,
)
from crosscoder.shards import Shard

NEGATIVE_POOL = 4
"""Silent documents that are kept for each negative wanted, to choose the like-sized from."""
_PAIRS = 1 << 22
"""(latent, document) pairs of which the silent ones are looked for at a time."""


@dataclass(frozen=True)
class ShardDocuments:
    """The documents of a shard."""

    index: IntArray
    """(n,) index of each document, ascending."""
    first: IntArray
    """(n,) its first row."""
    length: IntArray
    """(n,) its tokens."""
    usable: IntArray
    """Indices of the documents with unmasked tokens."""

    @classmethod
    def of(cls, shard: Shard) -> ShardDocuments:
        """Read them off the columns."""
        document = shard.document.numpy().astype(np.int64)
        index, first, length = np.unique(document, return_index=True, return_counts=True)
        usable = np.unique(document[shard.mask.numpy()])
        return cls(index, first, length, usable)


class EvidencePass:
    """What is kept of the shards seen so far; memory does not grow with their number."""

    def __init__(
        self,
        latents: Sequence[int],
        twins: Mapping[int, int],
        config: EvidenceConfig,
    ) -> None:
        """`latents` are wanted; `twins` names, by wanted latent, its twin, wanted as well."""
        place = {latent: index for index, latent in enumerate(latents)}
        n = len(latents)
        self.latents = np.asarray(latents, dtype=np.int64)
        self.config = config
        self.top = Reservoir(n, with_spare(config.top))
        self.sample = Reservoir(n, with_spare(config.quantile) + config.top)
        self.silent = Reservoir(n, NEGATIVE_POOL * with_spare(config.negative))
        self.other = Reservoir(n, with_spare(config.other_model) if twins else 0)
        self.top_windows = WindowActivations(n, self.top.size, config.window)
        self.sample_windows = WindowActivations(n, self.sample.size, config.window)
        pairs = sorted((place[latent], place[twin]) for latent, twin in twins.items())
        self._with_twin = np.array([latent for latent, _ in pairs], dtype=np.int64)
        self._twin = np.array([twin for _, twin in pairs], dtype=np.int64)

    @property
    def n_bytes(self) -> int:
        """Memory of all arrays."""
        parts = (self.top, self.sample, self.silent, self.other)
        windows = self.top_windows.n_bytes + self.sample_windows.n_bytes
        return sum(part.n_bytes for part in parts) + windows

    @torch.no_grad()
    def add(self, part: Crosscoder, shard: Shard) -> None:
        """Look through a shard with a crosscoder of the wanted latents, in their order."""
        codes = active_codes(part, shard)
        maxima = document_maxima(codes, shard)
        documents = ShardDocuments.of(shard)
        self._add_active(codes, maxima, documents)
        self._add_silent(maxima, documents)
        self._add_other(maxima, documents)

    def _add_active(self, codes: ActiveCodes, maxima: Maxima, documents: ShardDocuments) -> None:
        by_value = self._entries(maxima, documents, maxima.value.astype(np.float64))
        drawn = self._hashed(maxima.latent, maxima.document)
        by_chance = self._entries(maxima, documents, drawn)
        for reservoir, windows, entries in (
            (self.top, self.top_windows, by_value),
            (self.sample, self.sample_windows, by_chance),
        ):
            placed = reservoir.offer(entries)
            windows.write(placed, self._windows(codes, placed, documents))

    def _windows(
        self, codes: ActiveCodes, placed: Placed, documents: ShardDocuments
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        entries = placed.entries
        at = np.searchsorted(documents.index, entries.document)
        length = documents.length[at]
        start = documents.first[at] + window_start(entries.position, length, self.config.window)
        end = np.minimum(start + self.config.window, documents.first[at] + length)
        return codes.windows(entries.latent, start, end, self.config.window)

    def _add_silent(self, maxima: Maxima, documents: ShardDocuments) -> None:
        """Offer, for each latent, the usable documents of the shard in which it never fires."""
        if self.silent.size == 0 or len(documents.usable) == 0:
            return
        n_documents = len(documents.usable)
        step = max(1, _PAIRS // n_documents)
        for start in range(0, len(self.latents), step):
            end = min(start + step, len(self.latents))
            low, high = np.searchsorted(maxima.latent, [start, end])
            silent = np.ones((end - start, n_documents), dtype=bool)
            fired = np.searchsorted(documents.usable, maxima.document[low:high])
            silent[maxima.latent[low:high] - start, fired] = False
            latent, place = np.nonzero(silent)
            latent, document = latent + start, documents.usable[place]
            drawn = self._hashed(latent, document)
            nothing = np.zeros(len(latent))
            self.silent.offer(
                Entries(latent, document, drawn, nothing.astype(np.int64), nothing.astype("f4"))
            )

    def _add_other(self, maxima: Maxima, documents: ShardDocuments) -> None:
        """Offer each latent the documents of its twin in which it is silent itself."""
        if self.other.size == 0:
            return
        low = np.searchsorted(maxima.latent, self._twin)
        counts = np.searchsorted(maxima.latent, self._twin, side="right") - low
        latent = np.repeat(self._with_twin, counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        place = np.repeat(low, counts) + within
        n = int(documents.index[-1]) + 1
        silent = ~np.isin(latent * n + maxima.document[place], maxima.latent * n + maxima.document)
        latent, place = latent[silent], place[silent]
        of_twin = Maxima(latent, maxima.document[place], maxima.row[place], maxima.value[place])
        self.other.offer(self._entries(of_twin, documents, of_twin.value.astype(np.float64)))

    def _entries(self, maxima: Maxima, documents: ShardDocuments, priority: FloatArray) -> Entries:
        at = np.searchsorted(documents.index, maxima.document)
        position = maxima.row - documents.first[at]
        return Entries(maxima.latent, maxima.document, priority, position, maxima.value)

    def _hashed(self, latent: IntArray, document: IntArray) -> FloatArray:
        return hashed_priority(self.config.seed, self.latents[latent], document)


def window_start(centre: IntArray, n_tokens: IntArray, length: int) -> IntArray:
    """First token of a window around `centre`, moved inwards where the document ends."""
    start: IntArray = np.minimum(
        np.maximum(0, centre - length // 2), np.maximum(0, n_tokens - length)
    )
    return start
