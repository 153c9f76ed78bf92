"""One pass over the data that keeps, for every wanted latent, the documents worth showing."""

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
    """Documents offered to a reservoir, or kept by it for one latent; columns of one length."""

    latent: IntArray
    """(n,) place of the latent in the list of wanted latents."""
    document: IntArray
    """(n,) index of the document."""
    priority: FloatArray
    """(n,) what decides who stays: the larger, and on a tie the earlier document."""
    position: IntArray
    """(n,) token within the document at which a window is centred."""
    value: NDArray[np.float32]
    """(n,) unscaled activation there."""

    def __getitem__(self, which: IntArray | NDArray[np.bool_] | slice) -> Entries:
        """Some of the entries."""
        return Entries(*(column[which] for column in vars(self).values()))

    def __len__(self) -> int:
        return len(self.latent)


@dataclass(frozen=True)
class Placed:
    """Entries that found a slot."""

    entries: Entries
    slot: IntArray
    """(n,) slot of each entry, free for it to use."""


class Reservoir:
    """The `size` entries of highest priority of each latent, in descending order.

    What stays does not depend on the order in which documents come. Memory is fixed by the
    number of latents and `size`.
    """

    def __init__(self, n_latents: int, size: int) -> None:
        self.size = size
        self._priority = np.full((n_latents, size), -np.inf)
        self._document = np.full((n_latents, size), -1, dtype=np.int64)
        self._position = np.zeros((n_latents, size), dtype=np.int32)
        self._value = np.zeros((n_latents, size), dtype=np.float32)
        # Rows of a companion array (windows) stay where they are; the order moves.
        self._slot = np.tile(np.arange(size, dtype=np.int64), (n_latents, 1))

    def offer(self, offered: Entries) -> Placed:
        """Keep the best; returns those that are now in, with the slot each of them took over.

        A document is offered to a latent once.
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
        return self._hand_over_slots(offered, touched, kept, lost, n_old)

    def _hand_over_slots(
        self,
        offered: Entries,
        touched: IntArray,
        kept: IntArray,
        lost: IntArray,
        n_old: int,
    ) -> Placed:
        """Give each newcomer a slot of an entry of the same latent that has to go."""
        slot = np.concatenate([self._slot[touched].ravel(), np.full(len(offered), -1)])
        new = kept[kept >= n_old]
        gone = lost[lost < n_old]
        # Both are ascending by latent, and each latent loses as many as it gains.
        slot[new] = slot[gone]
        self._slot[touched] = slot[kept].reshape(len(touched), self.size)
        return Placed(offered[new - n_old], slot[new])

    def of(self, latent: int) -> Placed:
        """What is kept for one latent, best first."""
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
        """Memory of the arrays."""
        arrays = (self._priority, self._document, self._position, self._value, self._slot)
        return sum(array.nbytes for array in arrays)


class WindowActivations:
    """Activations of the window around each entry of a reservoir: (n_latents, size, length)."""

    def __init__(self, n_latents: int, size: int, length: int) -> None:
        self._values = np.zeros((n_latents, size, length), dtype=np.float32)

    def write(self, placed: Placed, values: NDArray[np.float32]) -> None:
        """Store the windows (n, length) of entries that found a slot."""
        self._values[placed.entries.latent, placed.slot] = values

    def read(self, latent: int, slots: IntArray) -> NDArray[np.float32]:
        """Windows (n, length) of some slots of a latent."""
        windows: NDArray[np.float32] = self._values[latent, slots]
        return windows

    @property
    def n_bytes(self) -> int:
        """Memory of the array."""
        return self._values.nbytes


def hashed_priority(seed: int, latent: IntArray, document: IntArray) -> FloatArray:
    """A random number in (0, 1) that belongs to (seed, latent, document) alone.

    The finaliser of splitmix64 (Steele, Lea and Flood 2014), applied to the three in turn.
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


NEGATIVE_POOL = 4
"""Documents without an activation kept per negative wanted, to choose some of similar length."""
_PAIRS = 1 << 22
"""(latent, document) pairs that are searched for inactive ones at a time."""


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
        counterparts: Mapping[int, int],
        config: EvidenceConfig,
    ) -> None:
        """`counterparts` maps latents to counterparts; both are among `latents`."""
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
        """Memory of all arrays."""
        parts = (self.top, self.sample, self.inactive, self.other)
        windows = self.top_windows.n_bytes + self.sample_windows.n_bytes
        return sum(part.n_bytes for part in parts) + windows

    @torch.no_grad()
    def add(self, part: Crosscoder, shard: Shard) -> None:
        """Look through a shard with a crosscoder of the wanted latents, in their order."""
        codes = active_codes(part, shard)
        maxima = document_maxima(codes, shard)
        documents = ShardDocuments.of(shard)
        self._add_active(codes, maxima, documents)
        self._add_inactive(maxima, documents)
        self._add_other(maxima, documents)

    def _add_active(self, codes: ActiveCodes, maxima: Maxima, documents: ShardDocuments) -> None:
        by_value = self._entries(maxima, documents, maxima.value.astype(np.float64))
        drawn = self._hash_priority(maxima.latent, maxima.document)
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

    def _add_inactive(self, maxima: Maxima, documents: ShardDocuments) -> None:
        """Offer, for each latent, the usable documents of the shard in which it never fires."""
        if self.inactive.size == 0 or len(documents.usable) == 0:
            return
        n_documents = len(documents.usable)
        step = max(1, _PAIRS // n_documents)
        for start in range(0, len(self.latents), step):
            end = min(start + step, len(self.latents))
            low, high = np.searchsorted(maxima.latent, [start, end])
            inactive = np.ones((end - start, n_documents), dtype=bool)
            fired = np.searchsorted(documents.usable, maxima.document[low:high])
            inactive[maxima.latent[low:high] - start, fired] = False
            latent, place = np.nonzero(inactive)
            latent, document = latent + start, documents.usable[place]
            drawn = self._hash_priority(latent, document)
            nothing = np.zeros(len(latent))
            self.inactive.offer(
                Entries(latent, document, drawn, nothing.astype(np.int64), nothing.astype("f4"))
            )

    def _add_other(self, maxima: Maxima, documents: ShardDocuments) -> None:
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
    """First token of a window around `centre`, moved inwards where the document ends."""
    start: IntArray = np.minimum(
        np.maximum(0, centre - length // 2), np.maximum(0, n_tokens - length)
    )
    return start
