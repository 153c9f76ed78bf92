"""Shuffled training batches straight from the models, with a cursor to go on from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import torch

from crosscoder.errors import InputError
from crosscoder.slot_plan import Draw, Put, slot_plan

_TAKEN = "taken"
_EPOCH = "epoch"
_IN_EPOCH = "taken_in_epoch"
_COUNTS = "counts"


class RowGroups(Protocol):
    """Rows by group, in an order that belongs to the epoch; reading one runs the models."""

    def n_groups(self, epoch: int) -> int:
        """Groups of an epoch."""

    def read(self, epoch: int, group: int) -> torch.Tensor:
        """Unmasked rows (n, M, d) float32 of a group: the same on every call."""


class StreamBatches:
    """`total` batches of `batch_size` rows, epoch after epoch, shuffled through a buffer.

    The cursor holds how many rows every group of the epoch had: following the plan again needs no
    more, so only the groups whose rows are still in the buffer are read again.
    """

    def __init__(
        self,
        groups: RowGroups,
        row_shape: tuple[int, int],
        batch_size: int,
        total: int,
        capacity: int,
        seed: int,
        cursor: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """`capacity` rows are kept, at least two batches."""
        self._groups = groups
        self._batch_size = batch_size
        self._total = total
        self._capacity = max(capacity, 2 * batch_size)
        self._seed = seed
        self._rows = torch.empty(self._capacity, *row_shape)
        self._taken = self._epoch = self._in_epoch = 0
        self._counts: list[int] = []
        self._open: tuple[int, torch.Tensor] | None = None
        if cursor is None:
            self._events = self._plan()
        else:
            self._go_to(cursor)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return self

    def __next__(self) -> torch.Tensor:
        if self._taken >= self._total:
            raise StopIteration
        while True:
            for event in self._events:
                if isinstance(event, Put):
                    rows = self._data(event.group)[event.first : event.first + len(event.slots)]
                    self._rows[event.slots] = rows
                    continue
                self._taken += 1
                self._in_epoch += 1
                return self._rows[event.slots]
            self._next_epoch()

    def cursor(self) -> dict[str, torch.Tensor]:
        """The place right behind the batch that was handed out last."""
        return {
            _TAKEN: torch.tensor(self._taken),
            _EPOCH: torch.tensor(self._epoch),
            _IN_EPOCH: torch.tensor(self._in_epoch),
            _COUNTS: torch.tensor(self._counts, dtype=torch.int64),
        }

    def _plan(self) -> Iterator[Put | Draw]:
        generator = torch.Generator().manual_seed((self._seed + self._epoch) % (1 << 63))
        n_groups = self._groups.n_groups(self._epoch)
        return slot_plan(n_groups, self._rows_of, self._capacity, self._batch_size, generator)

    def _rows_of(self, group: int) -> int:
        if group == len(self._counts):
            self._counts.append(len(self._data(group)))
        return self._counts[group]

    def _data(self, group: int) -> torch.Tensor:
        if self._open is None or self._open[0] != group:
            self._open = (group, self._groups.read(self._epoch, group))
        return self._open[1]

    def _next_epoch(self) -> None:
        if self._in_epoch == 0:
            raise InputError(
                "train.batch_size: one pass over the text has fewer training tokens than a batch; "
                "lower train.batch_size or give more text"
            )
        self._epoch += 1
        self._in_epoch = 0
        self._counts = []
        self._open = None
        self._events = self._plan()

    def _go_to(self, cursor: Mapping[str, torch.Tensor]) -> None:
        """Follow the plan up to the cursor and read what is still in the buffer there."""
        self._taken, self._epoch = int(cursor[_TAKEN]), int(cursor[_EPOCH])
        self._in_epoch = int(cursor[_IN_EPOCH])
        self._counts = cursor[_COUNTS].tolist()
        self._events = self._plan()
        group_of = torch.full((self._capacity,), -1, dtype=torch.int64)
        row_of = torch.zeros(self._capacity, dtype=torch.int64)
        done = 0
        while done < self._in_epoch:
            event = next(self._events)
            if isinstance(event, Put):
                group_of[event.slots] = event.group
                row_of[event.slots] = torch.arange(len(event.slots)) + event.first
            else:
                group_of[event.slots] = -1
                done += 1
        for group in group_of[group_of >= 0].unique().tolist():
            slots = (group_of == group).nonzero().flatten()
            self._rows[slots] = self._data(group)[row_of[slots]]
