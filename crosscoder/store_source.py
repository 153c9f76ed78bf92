"""An activation store as what training reads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from crosscoder.activations import ActivationStore
from crosscoder.files import json_sha256

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
    """What a training source says of the harvest that it reads, stored or read anew."""

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
    """The two sides of a split store, as `crosscoder.row_source.TrainingSource`."""

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
