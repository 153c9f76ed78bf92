"""What training reads its batches from: an activation store, or the models themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from crosscoder.activations import BUFFER_BYTES, ActivationStore
from crosscoder.errors import InputError
from crosscoder.files import json_sha256
from crosscoder.reading import plan_shards
from crosscoder.sources import Draw, Put, slot_plan
from crosscoder.stream import ActivationStream, sample_documents

if TYPE_CHECKING:
    from crosscoder.stream import ActivationStream


_TAKEN = "n_taken"


class StoreBatches:
    """Shuffled batches of a store; its cursor is the number of batches taken."""

    def __init__(self, batches: Iterator[torch.Tensor], n_taken: int) -> None:
        self._batches = batches
        self._n_taken = n_taken

    def __iter__(self) -> Iterator[torch.Tensor]:
        """The stream itself."""
        return self

    def __next__(self) -> torch.Tensor:
        """The next batch."""
        batch = next(self._batches)
        self._n_taken += 1
        return batch

    def cursor(self) -> dict[str, torch.Tensor]:
        """Number of batches taken."""
        return {_TAKEN: torch.tensor(self._n_taken)}


class HarvestFacts:
    """Facts of the harvest that a training source reads, from disk or from the models."""

    def __init__(self, harvest: ActivationStore | ActivationStream) -> None:
        self._harvest = harvest

    @property
    def model_names(self) -> tuple[str, ...]:
        """Names of the models."""
        return self._harvest.model_names

    @property
    def d_model(self) -> int:
        """Width d of the residual stream."""
        return self._harvest.d_model

    @property
    def layer(self) -> int:
        """Decoder block whose output is read."""
        return self._harvest.manifest.source.layer

    @property
    def tokenizer_sha256(self) -> str | None:
        """Hash of the models' tokenizer; None where the activations were made elsewhere."""
        return self._harvest.manifest.source.tokenizer_sha256 or None


class StoreSource(HarvestFacts):
    """The two sides of a split store, as `crosscoder.sources.TrainingSource`."""

    def __init__(self, store: ActivationStore) -> None:
        """ValueError where the store was not split."""
        store.chosen_documents("held_out")
        super().__init__(store)
        self._store = store

    @property
    def n_train_tokens(self) -> int:
        """Training tokens of one pass."""
        return self._store.n_unmasked_of("train")

    def fingerprint(self) -> str:
        """Hash of the shards, the mask and the split."""
        store = self._store
        held_out = store.chosen_documents("held_out").to(torch.uint8).numpy().tobytes()
        known = {
            "activations": store.manifest.key,
            "shards": [shard.sha256 for shard in store.manifest.shards],
            "mask": store.manifest.mask.sha256 if store.manifest.mask else None,
            "held_out": hashlib.sha256(held_out).hexdigest(),
        }
        return json_sha256(known)

    def description(self) -> dict[str, Any]:
        """Key of the store and what it was harvested from."""
        manifest = self._store.manifest
        return {"activations": manifest.key, "source": manifest.source.model_dump(mode="json")}

    def n_batches(self, batch_size: int, epochs: float) -> int:
        """Batches of `train_batches`."""
        return self._store.n_batches(batch_size, "train", epochs, drop_last=True)

    def train_batches(
        self,
        batch_size: int,
        epochs: float,
        seed: int,
        cursor: Mapping[str, torch.Tensor] | None = None,
    ) -> StoreBatches:
        """Shuffled batches, from the cursor on."""
        n_taken = 0 if cursor is None else int(cursor[_TAKEN])
        generator = torch.Generator().manual_seed(seed)
        batches = self._store.batches(
            batch_size, generator, "train", epochs, drop_last=True, start=n_taken
        )
        return StoreBatches(batches, n_taken)

    def normaliser_batches(self, batch_size: int) -> Iterator[torch.Tensor]:
        """All training rows, in corpus order."""
        return self._store.batches(batch_size, documents="train")

    def held_out_batches(self, batch_size: int) -> Iterator[torch.Tensor]:
        """All held-out rows, in corpus order."""
        return self._store.batches(batch_size, documents="held_out")


_STREAM_TAKEN = "taken"
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
            _STREAM_TAKEN: torch.tensor(self._taken),
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
        self._taken, self._epoch = int(cursor[_STREAM_TAKEN]), int(cursor[_EPOCH])
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


HELD_OUT_BYTES = 1 << 30
"""Held-out activations that are kept in memory, for theta and the quality."""


class StreamSource(HarvestFacts):
    """The two sides of a split stream, as `crosscoder.sources.TrainingSource`."""

    def __init__(self, stream: ActivationStream, buffer_bytes: int = BUFFER_BYTES) -> None:
        """ValueError where the stream was not split."""
        if stream.held_out is None:
            raise ValueError("training needs a stream from split()")
        super().__init__(stream)
        self._stream = stream
        self._train = (~stream.held_out).nonzero().flatten().tolist()
        self._held_out = stream.held_out.nonzero().flatten().tolist()
        self._row_bytes = 4 * stream.n_models * stream.d_model
        self._buffer_rows = buffer_bytes // self._row_bytes
        self._held_out_rows: torch.Tensor | None = None

    @property
    def n_train_tokens(self) -> int:
        """Training tokens of one pass, estimated from the stream's sample."""
        return self._stream.estimated_rows(self._train)

    def fingerprint(self) -> str:
        """Hash of the models, the text, the settings, the sample and the split."""
        manifest = self._stream.manifest
        known = {
            "stream": manifest.model_dump(mode="json", exclude={"n_eligible"}),
            "held_out": self._held_out,
            "batch_tokens": self._stream.config.batch_tokens,
        }
        return json_sha256(known)

    def description(self) -> dict[str, Any]:
        """What is read, and that nothing was stored."""
        manifest = self._stream.manifest
        return {
            "activations": manifest.key,
            "source": manifest.source.model_dump(mode="json"),
            "cache": False,
        }

    def n_batches(self, batch_size: int, epochs: float) -> int:
        """Batches of `train_batches`."""
        return round(epochs * (self.n_train_tokens // batch_size))

    def train_batches(
        self,
        batch_size: int,
        epochs: float,
        seed: int,
        cursor: Mapping[str, torch.Tensor] | None = None,
    ) -> StreamBatches:
        """Shuffled batches, documents in another order every epoch, from the cursor on."""
        return StreamBatches(
            _TrainingGroups(self._stream, self._train, seed),
            (self._stream.n_models, self._stream.d_model),
            batch_size,
            self.n_batches(batch_size, epochs),
            self._buffer_rows,
            seed,
            cursor,
        )

    def normaliser_batches(self, batch_size: int) -> Iterator[torch.Tensor]:
        """Rows of a random sample of the training documents."""
        sample = sample_documents(self._stream.tokenized, self._train)
        for shard_rows in self._rows(sample):
            yield from shard_rows.split(batch_size)

    def held_out_batches(self, batch_size: int) -> Iterator[torch.Tensor]:
        """Held-out rows, as many as are kept in memory, in corpus order."""
        if self._held_out_rows is None:
            limit, parts, n_rows = HELD_OUT_BYTES // self._row_bytes, [], 0
            for rows in self._rows(self._held_out):
                parts.append(rows[: limit - n_rows])
                n_rows += len(parts[-1])
                if n_rows == limit:
                    break
            self._held_out_rows = torch.cat(parts)
        yield from self._held_out_rows.split(batch_size)

    def _rows(self, documents: Sequence[int]) -> Iterator[torch.Tensor]:
        """Unmasked rows (n, M, d) of some documents, a shard's worth at a time."""
        chosen = [self._stream.tokenized[i] for i in documents]
        for members in plan_shards(chosen, self._stream.config.shard_tokens):
            shard = self._stream.read([documents[i] for i in members])
            yield shard.activations[shard.mask]


class _TrainingGroups:
    """The training documents in a random order of each epoch, in groups of a shard's size."""

    def __init__(self, stream: ActivationStream, documents: Sequence[int], seed: int) -> None:
        self._stream = stream
        self._documents = np.asarray(documents, dtype=np.int64)
        self._seed = seed
        self._epoch = -1
        self._groups: list[list[int]] = []

    def n_groups(self, epoch: int) -> int:
        """Groups of an epoch."""
        return len(self._of(epoch))

    def read(self, epoch: int, group: int) -> torch.Tensor:
        """Unmasked rows (n, M, d) of a group."""
        shard = self._stream.read(self._of(epoch)[group])
        return shard.activations[shard.mask]

    def _of(self, epoch: int) -> list[list[int]]:
        if epoch != self._epoch:
            order = np.random.default_rng([self._seed, epoch]).permutation(self._documents).tolist()
            plan = plan_shards(
                [self._stream.tokenized[i] for i in order], self._stream.config.shard_tokens
            )
            self._groups = [sorted(order[i] for i in members) for members in plan]
            self._epoch = epoch
        return self._groups
