"""One pass over the activations that keeps candidate documents for each wanted latent.

For each latent it keeps the documents with the strongest activations, a random sample of the
documents where it fires, documents where it never fires, and documents where only its counterpart
(the nearest latent of the other side) fires.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from crosscoder.config import EvidenceConfig, with_spare
from crosscoder.evaluate import encode_shard
from crosscoder.kernels import order_by_latent
from crosscoder.model import Crosscoder
from crosscoder.shards import Shard

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Entries:
    """Pairs of a latent and a document, as columns of equal length."""

    latent: IntArray
    """(n,) position of the latent in the list of wanted latents."""
    document: IntArray
    """(n,) index of the document."""
    priority: FloatArray
    """(n,) entries of high priority stay; among equal ones, those of earlier documents."""
    position: IntArray
    """(n,) index, within the document, of the token on which the window is centred."""
    value: NDArray[np.float32]
    """(n,) unscaled activation on this token."""

    def __getitem__(self, which: IntArray | NDArray[np.bool_] | slice) -> Entries:
        """A subset of the entries."""
        return Entries(*(column[which] for column in vars(self).values()))

    def __len__(self) -> int:
        return len(self.latent)


@dataclass(frozen=True)
class Placed:
    """Entries that a reservoir keeps, with their slots."""

    entries: Entries
    slot: IntArray
    """(n,) row of each entry in a companion array, such as WindowActivations."""


class Reservoir:
    """Keeps the `size` entries of highest priority for each latent, in descending order.

    The result does not depend on the order in which documents are offered. Memory depends only on
    the number of latents and on `size`.
    """

    def __init__(self, n_latents: int, size: int) -> None:
        self.size = size
        self._priority = np.full((n_latents, size), -np.inf)
        self._document = np.full((n_latents, size), -1, dtype=np.int64)
        self._position = np.zeros((n_latents, size), dtype=np.int32)
        self._value = np.zeros((n_latents, size), dtype=np.float32)
        # An entry keeps its slot while its rank changes, so that the rows of a companion array
        # (the windows) need not be moved.
        self._slot = np.tile(np.arange(size, dtype=np.int64), (n_latents, 1))

    def offer(self, offered: Entries) -> Placed:
        """Add entries and drop the lowest ones; returns the new entries that stayed.

        Each new entry has the slot of an entry that was dropped, or one that was empty. A document
        must be offered to a latent only once.
        """
        if self.size == 0 or len(offered) == 0:
            return Placed(offered[:0], np.empty(0, dtype=np.int64))
        offered = offered[offered.priority >= self._priority[offered.latent, -1]]
        if len(offered) == 0:
            return Placed(offered, np.empty(0, dtype=np.int64))
        touched, place = np.unique(offered.latent, return_inverse=True)
        n_old = len(touched) * self.size
        group = np.concatenate([np.repeat(np.arange(len(touched)), self.size), place])
        priority = np.concatenate([self._priority[touched].ravel(), offered.priority])
        document = np.concatenate([self._document[touched].ravel(), offered.document])
        order = np.lexsort((document, -priority, group))
        first = np.searchsorted(group[order], np.arange(len(touched)))
        rank = np.arange(len(order)) - first[group[order]]
        kept, lost = order[rank < self.size], order[rank >= self.size]
        shape = (len(touched), self.size)
        self._priority[touched] = priority[kept].reshape(shape)
        self._document[touched] = document[kept].reshape(shape)
        position = np.concatenate([self._position[touched].ravel(), offered.position])
        self._position[touched] = position[kept].reshape(shape)
        value = np.concatenate([self._value[touched].ravel(), offered.value])
        self._value[touched] = value[kept].reshape(shape)
        return self._assign_slots(offered, touched, kept, lost, n_old)

    def _assign_slots(
        self,
        offered: Entries,
        touched: IntArray,
        kept: IntArray,
        lost: IntArray,
        n_old: int,
    ) -> Placed:
        """Give each new entry the slot of a dropped entry of the same latent."""
        slot = np.concatenate([self._slot[touched].ravel(), np.full(len(offered), -1)])
        new = kept[kept >= n_old]
        gone = lost[lost < n_old]
        # Both are sorted by latent, and each latent drops as many entries as it gains.
        slot[new] = slot[gone]
        self._slot[touched] = slot[kept].reshape(len(touched), self.size)
        return Placed(offered[new - n_old], slot[new])

    def of(self, latent: int) -> Placed:
        """The entries that are kept for one latent, highest priority first."""
        here = np.flatnonzero(self._document[latent] >= 0)
        entries = Entries(
            latent=np.full(len(here), latent, dtype=np.int64),
            document=self._document[latent, here],
            priority=self._priority[latent, here],
            position=self._position[latent, here].astype(np.int64),
            value=self._value[latent, here],
        )
        return Placed(entries, self._slot[latent, here])

    @property
    def n_bytes(self) -> int:
        """Memory of the arrays in bytes."""
        arrays = (self._priority, self._document, self._position, self._value, self._slot)
        return sum(array.nbytes for array in arrays)


class WindowActivations:
    """Activations in the window around each entry of a reservoir: (n_latents, size, length)."""

    def __init__(self, n_latents: int, size: int, length: int) -> None:
        self._values = np.zeros((n_latents, size, length), dtype=np.float32)

    def write(self, placed: Placed, values: NDArray[np.float32]) -> None:
        """Store the windows (n, length) of entries in their slots."""
        self._values[placed.entries.latent, placed.slot] = values

    def read(self, latent: int, slots: IntArray) -> NDArray[np.float32]:
        """The windows (n, length) in some slots of a latent."""
        windows: NDArray[np.float32] = self._values[latent, slots]
        return windows

    @property
    def n_bytes(self) -> int:
        """Memory of the array in bytes."""
        return self._values.nbytes


def hashed_priority(seed: int, latent: IntArray, document: IntArray) -> FloatArray:
    """A pseudo-random number in [0, 1) that depends only on seed, latent and document.

    Applies the finaliser of splitmix64 (Steele, Lea and Flood 2014) to the three, one by one.
    """
    state = np.uint64(seed & 0xFFFFFFFFFFFFFFFF)
    with np.errstate(over="ignore"):
        mixed = _mix(state + latent.astype(np.uint64) * _GAMMA)
        mixed = _mix(mixed + (document.astype(np.uint64) + np.uint64(1)) * _GAMMA)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = state ^ (state >> np.uint64(31))
    return mixed


@dataclass(frozen=True)
class ActiveCodes:
    """The activations of the wanted latents in a shard, ordered by latent, then by row."""

    latent: IntArray
    """(n,) position of the latent in the list of wanted latents."""
    row: IntArray
    """(n,) row in the shard."""
    value: NDArray[np.float32]
    """(n,) unscaled activation."""
    n_rows: int
    """Number of rows of the shard."""

    def windows(
        self, latent: IntArray, start: IntArray, end: IntArray, length: int
    ) -> NDArray[np.float32]:
        """(m, length) activations of each latent on its rows [start, end), 0 beyond `end`."""
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
    """The token with the strongest activation, for each latent and document where it fires."""

    latent: IntArray
    """(n,) position of the latent in the list of wanted latents, ascending."""
    document: IntArray
    """(n,) ascending within a latent."""
    row: IntArray
    """(n,) row in the shard; the first one on a tie."""
    value: NDArray[np.float32]
    """(n,) unscaled activation on this token."""


def active_codes(part: Crosscoder, shard: Shard) -> ActiveCodes:
    """Encode a shard's unmasked tokens; `part` has the wanted latents only, in their order."""
    latents, rows, values = [], [], []
    for tokens in encode_shard(part, shard):
        latents.append(tokens.codes.latent.cpu())
        rows.append(tokens.row[tokens.codes.token.cpu()])
        values.append(tokens.codes.value.float().cpu())
    if not latents:
        none = np.empty(0, dtype=np.int64)
        return ActiveCodes(none, none, none.astype(np.float32), shard.n_tokens)
    latent = torch.cat(latents)
    # The codes are in the order of the rows, so a stable sort by latent keeps the rows ascending.
    order = order_by_latent(latent, part.config.n_latents)
    return ActiveCodes(
        latent[order].numpy(),
        torch.cat(rows)[order].numpy(),
        torch.cat(values)[order].numpy(),
        shard.n_tokens,
    )


def document_maxima(codes: ActiveCodes, shard: Shard) -> Maxima:
    """The strongest token of every latent in every document of a shard where it fires."""
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


NEGATIVE_POOL = 4
"""Inactive documents that are kept per wanted negative, to choose those of similar length."""
_PAIRS_AT_ONCE = 1 << 22
"""(latent, document) pairs that are checked for activations at once; this limits the memory."""


@dataclass(frozen=True)
class ShardDocuments:
    """The documents of a shard."""

    index: IntArray
    """(n,) index of each document, ascending."""
    first: IntArray
    """(n,) first row of each document."""
    length: IntArray
    """(n,) number of tokens of each document."""
    usable: IntArray
    """(m,) indices of the documents that have unmasked tokens, ascending."""

    @classmethod
    def of(cls, shard: Shard) -> ShardDocuments:
        """The documents of a shard, read from its columns."""
        document = shard.document.numpy().astype(np.int64)
        index, first, length = np.unique(document, return_index=True, return_counts=True)
        usable = np.unique(document[shard.mask.numpy()])
        return cls(index, first, length, usable)


class EvidencePass:
    """The candidates from all shards so far; memory does not grow with the number of shards."""

    def __init__(
        self,
        latents: Sequence[int],
        counterparts: Mapping[int, int],
        config: EvidenceConfig,
    ) -> None:
        """`counterparts` maps a latent to its counterpart; both must be in `latents`."""
        place = {latent: index for index, latent in enumerate(latents)}
        n = len(latents)
        self.latents = np.asarray(latents, dtype=np.int64)
        self.config = config
        self.top = Reservoir(n, with_spare(config.top))
        self.sample = Reservoir(n, with_spare(config.quantile) + config.top)
        self.inactive = Reservoir(n, NEGATIVE_POOL * with_spare(config.negative))
        self.other = Reservoir(n, with_spare(config.other_model) if counterparts else 0)
        self.top_windows = WindowActivations(n, self.top.size, config.window)
        self.sample_windows = WindowActivations(n, self.sample.size, config.window)
        pairs = sorted(
            (place[latent], place[counterpart]) for latent, counterpart in counterparts.items()
        )
        self._with_counterpart = np.array([latent for latent, _ in pairs], dtype=np.int64)
        self._counterpart = np.array([counterpart for _, counterpart in pairs], dtype=np.int64)

    @property
    def n_bytes(self) -> int:
        """Memory of all arrays in bytes."""
        parts = (self.top, self.sample, self.inactive, self.other)
        windows = self.top_windows.n_bytes + self.sample_windows.n_bytes
        return sum(part.n_bytes for part in parts) + windows

    @torch.no_grad()
    def add(self, part: Crosscoder, shard: Shard) -> None:
        """Add the candidates of a shard; `part` has the wanted latents only, in their order."""
        codes = active_codes(part, shard)
        maxima = document_maxima(codes, shard)
        documents = ShardDocuments.of(shard)
        self._add_active(codes, maxima, documents)
        self._add_inactive(maxima, documents)
        self._add_counterpart_only(maxima, documents)

    def _add_active(self, codes: ActiveCodes, maxima: Maxima, documents: ShardDocuments) -> None:
        strongest = self._entries(maxima, documents, maxima.value.astype(np.float64))
        drawn = self._hash_priority(maxima.latent, maxima.document)
        at_random = self._entries(maxima, documents, drawn)
        for reservoir, windows, entries in (
            (self.top, self.top_windows, strongest),
            (self.sample, self.sample_windows, at_random),
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

    def _add_inactive(self, maxima: Maxima, documents: ShardDocuments) -> None:
        """Offer each latent the usable documents of the shard in which it never fires."""
        if self.inactive.size == 0 or len(documents.usable) == 0:
            return
        n_documents = len(documents.usable)
        step = max(1, _PAIRS_AT_ONCE // n_documents)
        for start in range(0, len(self.latents), step):
            end = min(start + step, len(self.latents))
            low, high = np.searchsorted(maxima.latent, [start, end])
            inactive = np.ones((end - start, n_documents), dtype=bool)
            fired = np.searchsorted(documents.usable, maxima.document[low:high])
            inactive[maxima.latent[low:high] - start, fired] = False
            latent, place = np.nonzero(inactive)
            latent, document = latent + start, documents.usable[place]
            drawn = self._hash_priority(latent, document)
            zeros = np.zeros(len(latent))
            self.inactive.offer(
                Entries(latent, document, drawn, zeros.astype(np.int64), zeros.astype("f4"))
            )

    def _add_counterpart_only(self, maxima: Maxima, documents: ShardDocuments) -> None:
        """Offer each latent the documents where its counterpart is active and it is not."""
        if self.other.size == 0:
            return
        low = np.searchsorted(maxima.latent, self._counterpart)
        counts = np.searchsorted(maxima.latent, self._counterpart, side="right") - low
        latent = np.repeat(self._with_counterpart, counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        place = np.repeat(low, counts) + within
        n = int(documents.index[-1]) + 1
        inactive = ~np.isin(
            latent * n + maxima.document[place], maxima.latent * n + maxima.document
        )
        latent, place = latent[inactive], place[inactive]
        of_counterpart = Maxima(
            latent, maxima.document[place], maxima.row[place], maxima.value[place]
        )
        self.other.offer(
            self._entries(of_counterpart, documents, of_counterpart.value.astype(np.float64))
        )

    def _entries(self, maxima: Maxima, documents: ShardDocuments, priority: FloatArray) -> Entries:
        at = np.searchsorted(documents.index, maxima.document)
        position = maxima.row - documents.first[at]
        return Entries(maxima.latent, maxima.document, priority, position, maxima.value)

    def _hash_priority(self, latent: IntArray, document: IntArray) -> FloatArray:
        return hashed_priority(self.config.seed, self.latents[latent], document)


def window_start(centre: IntArray, n_tokens: IntArray, length: int) -> IntArray:
    """First token of a window around `centre`; near the ends, it is moved into the document."""
    start: IntArray = np.minimum(
        np.maximum(0, centre - length // 2), np.maximum(0, n_tokens - length)
    )
    return start
