"""The unmasked tokens of some documents of a store, in batches, one epoch after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from crosscoder.manifest import HarvestManifest
from crosscoder.ring import ShuffleBuffer
from crosscoder.shards import read_columns, read_mask, read_rows


class RowSource:
    """Serves rows (M, d) from memory where `capacity` rows hold them all, else from disk.

    From disk, one shard and a shuffle buffer of `capacity` rows are in memory.
    """

    def __init__(
        self,
        directory: Path,
        manifest: HarvestManifest,
        chosen: torch.Tensor,
        n_rows: int,
        capacity: int,
    ) -> None:
        """`chosen` (n_documents,) bool says whose `n_rows` unmasked tokens are served."""
        self._directory = directory
        self._manifest = manifest
        self._chosen = chosen
        self._n_rows = n_rows
        self._capacity = capacity
        self._row_shape = (len(manifest.source.subjects), manifest.d_model)
        self._resident: torch.Tensor | None = None

    def epoch(self, batch_size: int, seed: int | None, epoch: int) -> Iterator[torch.Tensor]:
        """Batches of one pass; the last one may be smaller."""
        if seed is None:
            yield from self._in_order(batch_size)
            return
        generator = torch.Generator().manual_seed((seed + epoch) % (1 << 63))
        if self._n_rows <= self._capacity:
            yield from self._from_memory(batch_size, generator)
        else:
            yield from self._through_buffer(batch_size, generator)

    def _chunks(self, order: Sequence[int]) -> Iterator[torch.Tensor]:
        """Chosen rows of each shard, float32."""
        for index in order:
            record = self._manifest.shards[index]
            mask = read_mask(self._directory, record)
            (document,) = read_columns(self._directory, record, ["document"])
            rows = (mask & self._chosen[document.long()]).nonzero().flatten()
            if len(rows):
                yield read_rows(self._directory, record, rows)

    def _in_order(self, batch_size: int) -> Iterator[torch.Tensor]:
        pending = torch.empty(0, *self._row_shape)
        for chunk in self._chunks(range(len(self._manifest.shards))):
            pending = torch.cat([pending, chunk])
            n_whole = len(pending) // batch_size * batch_size
            yield from pending[:n_whole].split(batch_size) if n_whole else ()
            pending = pending[n_whole:]
        if len(pending):
            yield pending

    def _from_memory(self, batch_size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
        if self._resident is None:
            self._resident = self._load()
        for rows in torch.randperm(self._n_rows, generator=generator).split(batch_size):
            yield self._resident[rows]

    def _load(self) -> torch.Tensor:
        rows = torch.empty(self._n_rows, *self._row_shape)
        start = 0
        for chunk in self._chunks(range(len(self._manifest.shards))):
            rows[start : start + len(chunk)] = chunk
            start += len(chunk)
        return rows

    def _through_buffer(
        self, batch_size: int, generator: torch.Generator
    ) -> Iterator[torch.Tensor]:
        buffer = ShuffleBuffer(self._capacity, self._row_shape, generator)
        order = torch.randperm(len(self._manifest.shards), generator=generator).tolist()
        for chunk in self._chunks(order):
            while len(chunk):
                taken = min(buffer.n_free, len(chunk))
                buffer.put(chunk[:taken])
                chunk = chunk[taken:]
                if buffer.n_free == 0:
                    yield from buffer.draw(batch_size, keep=self._capacity // 2)
        yield from buffer.rest().split(batch_size)
