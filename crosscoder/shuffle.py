"""A shuffle buffer: which rows are drawn, and where new rows go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch


class ShuffleBuffer:
    """Holds at most `capacity` rows; a batch drawn from it is uniform over what it holds.

    Slots of drawn rows are refilled in place, so memory does not grow with the data.
    """

    def __init__(
        self, capacity: int, row_shape: tuple[int, ...], generator: torch.Generator
    ) -> None:
        self._rows = torch.empty((capacity, *row_shape), dtype=torch.float32)
        self._free = torch.arange(capacity)
        self._used = torch.empty(0, dtype=torch.int64)
        self._generator = generator

    @property
    def n_free(self) -> int:
        """Rows that still fit."""
        return int(self._free.numel())

    @property
    def n_used(self) -> int:
        """Rows held."""
        return int(self._used.numel())

    def put(self, rows: torch.Tensor) -> None:
        """Take rows (n, ...) in; n must not exceed `n_free`."""
        slots, self._free = self._free[: len(rows)], self._free[len(rows) :]
        self._rows[slots] = rows
        self._used = torch.cat([self._used, slots])

    def draw(self, batch_size: int, keep: int) -> Iterator[torch.Tensor]:
        """Yield random batches of exactly `batch_size` rows until `keep` or fewer would remain."""
        n_batches = max(0, (self.n_used - keep) // batch_size)
        order = self._used[torch.randperm(self.n_used, generator=self._generator)]
        drawn = n_batches * batch_size
        for start in range(0, drawn, batch_size):
            yield self._rows[order[start : start + batch_size]]
        self._free = torch.cat([self._free, order[:drawn]])
        self._used = order[drawn:]

    def rest(self) -> torch.Tensor:
        """All rows still held, in random order; the buffer is empty afterwards."""
        order = self._used[torch.randperm(self.n_used, generator=self._generator)]
        self._free, self._used = torch.cat([self._free, order]), self._used[:0]
        return self._rows[order]


@dataclass(frozen=True)
class Put:
    """Rows `first` to `first + len(slots)` of a group go into these slots."""

    group: int
    first: int
    slots: torch.Tensor


@dataclass(frozen=True)
class Draw:
    """The rows in these slots make a batch; the slots are free afterwards."""

    slots: torch.Tensor


def slot_plan(
    n_groups: int,
    rows_of: Callable[[int], int],
    capacity: int,
    batch_size: int,
    generator: torch.Generator,
) -> Iterator[Put | Draw]:
    """One epoch through a buffer of `capacity` slots: filled, drawn at random down to a half.

    `rows_of` is asked for each group once, in order, when the buffer comes to it. The same
    generator and the same answers give the same plan, so a plan can be followed again without
    the rows. What does not fill the last batch is left out.
    """
    free = torch.arange(capacity)
    used = torch.empty(0, dtype=torch.int64)
    for group in range(n_groups):
        n_rows, first = rows_of(group), 0
        while first < n_rows:
            taken = min(len(free), n_rows - first)
            slots, free = free[:taken], free[taken:]
            yield Put(group, first, slots)
            used, first = torch.cat([used, slots]), first + taken
            if len(free) == 0:
                n_batches = max(1, (capacity - capacity // 2) // batch_size)
                order = used[torch.randperm(len(used), generator=generator)]
                for drawn in order[: n_batches * batch_size].split(batch_size):
                    yield Draw(drawn)
                free, used = order[: n_batches * batch_size], order[n_batches * batch_size :]
    order = used[torch.randperm(len(used), generator=generator)]
    for drawn in order.split(batch_size):
        if len(drawn) == batch_size:
            yield Draw(drawn)
