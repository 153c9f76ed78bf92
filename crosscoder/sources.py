"""What training, latent scaling and evidence read: activations with their text, their rows, and
the buffer in which rows are shuffled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from crosscoder.corpus import DocumentTokens
from crosscoder.errors import InputError
from crosscoder.manifest import HarvestManifest
from crosscoder.shards import Shard, ShardFiles


class ActivationSource(Protocol):
    """Activations of M models at the same tokens, with the text they belong to."""

    @property
    def model_names(self) -> tuple[str, ...]:
        """Names of the models, in the order of the model axis."""

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""

    @property
    def n_tokens(self) -> int:
        """Tokens of all shards."""

    @property
    def n_unmasked(self) -> int:
        """Tokens that take part, as far as it is known before they are read."""

    @property
    def document_ids(self) -> tuple[str, ...]:
        """Identifier of each document by document index."""

    @property
    def document_lengths(self) -> tuple[int, ...]:
        """Tokens of each document by document index."""

    @property
    def document_units(self) -> tuple[int, ...]:
        """Independent unit of each document, ascending; see `crosscoder.corpus.document_units`."""

    def shards(self) -> Iterator[Shard]:
        """All shards in order, whole documents each, indices ascending."""

    def document_tokens(self, documents: Sequence[int]) -> dict[int, DocumentTokens]:
        """The tokens of some documents, without their activations."""


class BatchStream(Protocol):
    """Shuffled training batches, one after the other."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        """The stream itself."""

    def __next__(self) -> torch.Tensor:
        """The next raw float32 batch (B, M, d) of exactly the asked size."""

    def cursor(self) -> dict[str, torch.Tensor]:
        """Where the stream stands: what `TrainingSource.train_batches` needs to go on.

        Taken after a batch was handed out, it names the place right behind that batch. Small
        tensors on the CPU: they are part of every checkpoint.
        """


class TrainingSource(Protocol):
    """Unmasked tokens to train on and to measure on, wherever they come from.

    The same source with the same seed yields the same batches, bit by bit, on every call.
    """

    @property
    def model_names(self) -> tuple[str, ...]:
        """Names of the M subject models, in the order of the model axis."""

    @property
    def d_model(self) -> int:
        """Width d of the residual stream."""

    @property
    def layer(self) -> int:
        """Decoder block whose output is read."""

    @property
    def tokenizer_sha256(self) -> str | None:
        """Hash of the tokenizer that all subject models share, where it is known."""

    @property
    def n_train_tokens(self) -> int:
        """Training tokens of one pass."""

    def fingerprint(self) -> str:
        """Hash of all that decides the rows, their order apart: data, mask, held-out documents."""

    def description(self) -> dict[str, Any]:
        """What the crosscoder was made from, as JSON, for its `config.json`."""

    def n_batches(self, batch_size: int, epochs: float) -> int:
        """Batches that `train_batches` yields, from the first on."""

    def train_batches(
        self,
        batch_size: int,
        epochs: float,
        seed: int,
        cursor: Mapping[str, torch.Tensor] | None = None,
    ) -> BatchStream:
        """Shuffled batches of `batch_size` training rows; an incomplete one is left out.

        With the `cursor` of an earlier stream, of the same arguments, the batches that were left.
        """

    def normaliser_batches(self, batch_size: int) -> Iterator[torch.Tensor]:
        """One pass over the training rows, or over a fair sample of them, to fit the scales."""

    def held_out_batches(self, batch_size: int) -> Iterator[torch.Tensor]:
        """One pass over the held-out rows, in the same order each time; asked for repeatedly."""


def draw_held_out(
    n_rows: Sequence[int], units: Sequence[int], share: float, seed: int
) -> torch.Tensor:
    """(D,) bool: a random share of the units that have rows, at least one for each side.

    `n_rows` (D,) are the rows of each document, `units` (D,) its unit: all documents of a unit are
    on one side. InputError where fewer than two units have rows.
    """
    rows, unit = torch.tensor(n_rows), torch.tensor(units)
    usable = unit[rows > 0].unique()
    if len(usable) < 2:
        raise InputError("corpus: fewer than two documents have tokens to train on; give more text")
    n_held_out = min(max(1, round(share * len(usable))), len(usable) - 1)
    order = torch.randperm(len(usable), generator=torch.Generator().manual_seed(seed))
    return torch.isin(unit, usable[order[:n_held_out]]) & (rows > 0)


class RowSource:
    """Serves rows (M, d) from memory where `capacity` rows hold them all, else from disk.

    From disk, one shard and a shuffle buffer of `capacity` rows are in memory.
    """

    def __init__(
        self,
        files: ShardFiles,
        manifest: HarvestManifest,
        chosen: torch.Tensor,
        n_rows: int,
        capacity: int,
        models: Sequence[int] | None = None,
    ) -> None:
        """`chosen` (n_documents,) bool says whose `n_rows` unmasked tokens are served.

        `models` are the places of the manifest's models on the stored axis, None = as stored.
        """
        self._files = files
        self._manifest = manifest
        self._chosen = chosen
        self._n_rows = n_rows
        self._capacity = capacity
        self._models = models
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
        for place, index in enumerate(order):
            mask = self._files.mask(index)
            (document,) = self._files.columns(index, ["document"])
            if place + 1 < len(order):
                self._files.expect(order[place + 1])
            rows = (mask & self._chosen[document.long()]).nonzero().flatten()
            if len(rows):
                yield self._files.rows(index, rows, self._models)

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
