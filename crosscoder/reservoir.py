"""Bounded arrays of the best documents of each latent, fed shard by shard without loops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
