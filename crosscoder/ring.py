"""A bounded shuffle buffer: rows go in as they are read and come out in random batches."""

from __future__ import annotations

from collections.abc import Iterator

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
