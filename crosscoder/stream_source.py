"""Training while the models read: a split stream as a source of batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from crosscoder.activations import BUFFER_BYTES
from crosscoder.batching import plan_shards
from crosscoder.files import json_sha256
from crosscoder.store_source import HarvestFacts
from crosscoder.stream import ActivationStream, sample_documents
from crosscoder.stream_batches import StreamBatches

HELD_OUT_BYTES = 1 << 30
"""Held-out activations that are kept in memory, for theta and the quality."""


class StreamSource(HarvestFacts):
    """The two sides of a split stream, as `crosscoder.row_source.TrainingSource`."""

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
