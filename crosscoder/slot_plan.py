"""Which row lies in which slot of a shuffle buffer, and when it is drawn; no row is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch


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
