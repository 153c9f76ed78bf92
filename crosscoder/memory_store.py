"""Activations that lie in memory, and those of null runs, behind the interface of the disk's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from crosscoder.activations import BUFFER_BYTES, ActivationStore, DocumentChoice
from crosscoder.corpus import TokenRole
from crosscoder.manifest import (
    DocumentTable,
    HarvestManifest,
    HarvestSource,
    MaskRecord,
    SubjectRecord,
)
from crosscoder.shards import Shard

SHARD_TOKENS = 16384
"""Tokens of one piece that `MemoryStore.shards` yields, up to the end of a document."""


@dataclass(frozen=True)
class MemoryStore(ActivationStore):
    """An activation store without files: for generated activations and for trials.

    A whole pass is shuffled uniformly.
    """

    pieces: tuple[Shard, ...] = field(default=(), repr=False)
    """Whole documents in order."""

    @property
    def n_tokens(self) -> int:
        """Tokens held."""
        return sum(piece.n_tokens for piece in self.pieces)

    def verify(self) -> None:
        """Nothing can have changed: there are no files."""

    def shards(self) -> Iterator[Shard]:
        """The pieces in order."""
        yield from self.pieces

    def batches(
        self,
        batch_size: int,
        generator: torch.Generator | None = None,
        documents: DocumentChoice = "all",
        epochs: float = 1.0,
        drop_last: bool = False,
        start: int = 0,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> Iterator[torch.Tensor]:
        """As `ActivationStore.batches`; `buffer_bytes` has no meaning here."""
        total = self.n_batches(batch_size, documents, epochs, drop_last)
        per_epoch = self.n_batches(batch_size, documents, 1.0, drop_last)
        if total == 0:
            return
        seed = None
        if generator is not None:
            seed = int(torch.randint(0, 1 << 62, (), generator=generator))
        rows = self._rows(documents)
        for index in range(start, total):
            epoch, place = divmod(index, per_epoch)
            if place == 0 or index == start:
                order = _order(len(rows), seed, epoch)
            yield rows[order[place * batch_size : (place + 1) * batch_size]]

    def _rows(self, documents: DocumentChoice) -> torch.Tensor:
        chosen = self.chosen_documents(documents)
        return torch.cat(
            [piece.activations[piece.mask & chosen[piece.document.long()]] for piece in self.pieces]
        )


def _order(n_rows: int, seed: int | None, epoch: int) -> torch.Tensor:
    if seed is None:
        return torch.arange(n_rows)
    generator = torch.Generator().manual_seed((seed + epoch) % (1 << 63))
    return torch.randperm(n_rows, generator=generator)


def memory_store(
    activations: torch.Tensor, document: torch.Tensor, model_names: Sequence[str], layer: int = 0
) -> MemoryStore:
    """A store of float32 activations (n, M, d) of the ascending documents `document` (n,).

    No token is masked. ValueError where the documents do not ascend or the sizes differ.
    """
    n, n_models, d_model = activations.shape
    if len(document) != n or len(model_names) != n_models:
        raise ValueError("activations, document and model_names differ in size")
    if bool((document.diff() < 0).any()):
        raise ValueError("document must ascend")
    n_documents = int(document[-1]) + 1
    counts = torch.bincount(document.long(), minlength=n_documents)
    table = DocumentTable(
        ids=tuple(f"document-{index}" for index in range(n_documents)),
        n_tokens=tuple(counts.tolist()),
        n_unmasked=tuple(counts.tolist()),
    )
    content = hashlib.sha256(activations.contiguous().numpy().tobytes())
    content.update(document.long().numpy().tobytes())
    manifest = HarvestManifest(
        source=HarvestSource(
            subjects=tuple(SubjectRecord(name=name, fingerprint="") for name in model_names),
            layer=layer,
            tokenizer_sha256="",
            template_sha256="",
            corpus_sha256=content.hexdigest(),
            config={},
        ),
        d_model=d_model,
        n_documents=n_documents,
        mask=MaskRecord(
            sha256="",
            n_unmasked=n,
            median_norms=tuple(activations.norm(dim=-1).median(dim=0).values.tolist()),
        ),
    )
    pieces = tuple(_pieces(activations.float(), document.to(torch.int32), counts))
    return MemoryStore(Path(), manifest, table, pieces=pieces)


def _pieces(
    activations: torch.Tensor, document: torch.Tensor, counts: torch.Tensor
) -> Iterator[Shard]:
    ends = counts.cumsum(0)
    start, index = 0, 0
    while start < len(document):
        wanted = min(start + SHARD_TOKENS, len(document))
        end = int(ends[ends >= wanted][0])
        rows = slice(start, end)
        n = end - start
        first = torch.searchsorted(document[rows].contiguous(), document[rows].contiguous())
        yield Shard(
            index=index,
            activations=activations[rows],
            token_ids=torch.zeros(n, dtype=torch.int32),
            roles=torch.full((n,), int(TokenRole.PLAIN), dtype=torch.uint8),
            document=document[rows],
            position=(torch.arange(n) - first).to(torch.int32),
            mask=torch.ones(n, dtype=torch.bool),
        )
        start, index = end, index + 1


def noisy_copy_store(
    store: ActivationStore,
    model: str,
    noise: float,
    seed: int,
    names: Sequence[str],
    max_tokens: int | None = None,
) -> MemoryStore:
    """The unmasked tokens of one model twice, the second time with noise added, in memory.

    `noise` is the standard deviation of the Gaussian noise in units of the root mean square of the
    model's centred activations; `names` are the two names. A unit of the store is one document of
    the copy. A model against a copy that is exactly equal proves nothing: with shared
    initialisation its latents are equal by construction. With `max_tokens` reading ends with the
    first shard that reaches it.
    """
    index = store.model_names.index(model)
    rows, documents, units = [], [], torch.tensor(store.document_units)
    for shard in store.shards():
        rows.append(shard.activations[shard.mask, index])
        documents.append(units[shard.document[shard.mask].long()])
        if max_tokens is not None and sum(map(len, documents)) >= max_tokens:
            break
    x = torch.cat(rows)
    spread = (x - x.mean(0)).square().mean().sqrt()
    drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    return memory_store(
        torch.stack([x, x + noise * spread * drawn], 1), torch.cat(documents), names
    )
