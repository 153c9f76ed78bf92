"""Reading stored activations: shard by shard in order, or as shuffled batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from crosscoder.corpus import DocumentTokens, TokenRole
from crosscoder.errors import InputError
from crosscoder.files import DamagedFileError, VerifiedFiles, set_aside
from crosscoder.manifest import (
    DocumentTable,
    HarvestManifest,
    HarvestSource,
    SubjectRecord,
    read_documents,
    read_manifest,
    write_documents,
    write_manifest,
)
from crosscoder.shards import (
    REMEDY,
    STORAGE_DTYPES,
    Shard,
    ShardFiles,
    ShardTokens,
    write_masks,
    write_shard,
)
from crosscoder.sources import RowSource, draw_held_out

DocumentChoice = Literal["train", "held_out", "all"]

BUFFER_BYTES = 1 << 30
"""Default size of the shuffle buffer of `ActivationStore.batches`."""


@dataclass(frozen=True)
class ActivationStore:
    """The residual stream of M models at the same tokens, on disk.

    Documents lie in corpus order, each wholly in one shard, its tokens in order. A shard is hashed
    when it is first read, in a thread next to the reading; none of its rows is handed out before.
    """

    directory: Path
    manifest: HarvestManifest
    documents: DocumentTable
    """Identifier, token count and unmasked token count by document index."""
    held_out: torch.Tensor | None = None
    """(n_documents,) bool, true where a document is kept from training; None before `split`."""
    model_places: tuple[int, ...] | None = None
    """Places of the manifest's models on the stored model axis; None = all, as stored."""
    verified: VerifiedFiles = field(default_factory=VerifiedFiles, repr=False, compare=False)
    """Which files were hashed already."""

    @classmethod
    def open(cls, directory: Path, verified: VerifiedFiles | None = None) -> ActivationStore:
        """Open a complete store; InputError where it is missing, unfinished or damaged.

        Stores that share `verified` hash each file once together.
        """
        manifest = read_manifest(directory)
        if manifest is None:
            raise InputError(f"{directory}: holds no activations; harvest first")
        if not manifest.complete:
            raise InputError(f"{directory}: the harvest is unfinished; run it again to go on")
        for record in manifest.shards:
            path = directory / record.file
            if not path.is_file() or path.stat().st_size != record.n_bytes:
                raise set_aside(DamagedFileError(path, REMEDY))
        documents = read_documents(directory)
        return cls(directory, manifest, documents, verified=verified or VerifiedFiles())

    @property
    def files(self) -> ShardFiles:
        """The shards and their masks, hashed before they are handed out."""
        return ShardFiles(self.directory, self.manifest.shards, self.manifest.mask, self.verified)

    @property
    def n_models(self) -> int:
        """M, the number of models."""
        return len(self.manifest.source.subjects)

    @property
    def d_model(self) -> int:
        """Width d of the residual stream."""
        return self.manifest.d_model

    @property
    def model_names(self) -> tuple[str, ...]:
        """Names of the models, in the order of the model axis."""
        return self.manifest.model_names

    @property
    def n_tokens(self) -> int:
        """Tokens stored, masked ones included."""
        return self.manifest.n_tokens

    @property
    def n_unmasked(self) -> int:
        """Tokens that take part in training, scaling and evidence."""
        return sum(self.documents.n_unmasked)

    @property
    def n_documents(self) -> int:
        """Documents stored."""
        return len(self.documents.ids)

    @property
    def n_shards(self) -> int:
        """Shard files."""
        return len(self.manifest.shards)

    @property
    def document_ids(self) -> tuple[str, ...]:
        """Identifier of each document by document index."""
        return self.documents.ids

    @property
    def document_lengths(self) -> tuple[int, ...]:
        """Tokens of each document by document index."""
        return self.documents.n_tokens

    @property
    def document_units(self) -> tuple[int, ...]:
        """Independent unit of each document; see `crosscoder.corpus.document_units`."""
        units = self.documents.units
        return tuple(range(self.n_documents)) if units is None else units

    def document_tokens(self, documents: Sequence[int]) -> dict[int, DocumentTokens]:
        """The tokens of some documents, by ascending index; their activations are not read."""
        found: dict[int, DocumentTokens] = {}
        shard_of = self._shard_of(documents)
        for index in np.unique(shard_of).tolist():
            names = ["token_ids", "roles", "document"]
            token_ids, roles, document = self.files.columns(index, names)
            mask, column = self.files.mask(index), document.numpy()
            for wanted in np.asarray(documents)[shard_of == index].tolist():
                part = slice(*np.searchsorted(column, [wanted, wanted + 1]).tolist())
                found[wanted] = DocumentTokens(
                    token_ids[part].numpy(), roles[part].numpy(), mask[part].numpy()
                )
        return found

    def verify(self) -> None:
        """Hash every shard and the mask; DamagedFileError names the first that has changed."""
        for index in range(self.n_shards):
            self.files.columns(index, [])
        if self.n_shards:
            self.files.mask(0)

    def shards(self) -> Iterator[Shard]:
        """Read the shards in order, one in memory at a time."""
        for index in range(self.n_shards):
            shard = self.files.shard(index, self.model_places)
            if index + 1 < self.n_shards:
                self.files.expect(index + 1)
            yield shard

    def read_documents(self, documents: Sequence[int]) -> Iterator[Shard]:
        """Some documents, by ascending index, one shard's in memory at a time."""
        for index in np.unique(self._shard_of(documents)).tolist():
            shard = self.files.shard(index, self.model_places)
            yield shard.only(torch.isin(shard.document, torch.tensor(documents)))

    def _shard_of(self, documents: Sequence[int]) -> NDArray[np.int64]:
        """The shard of each document."""
        firsts = [record.first_document for record in self.manifest.shards]
        return np.searchsorted(firsts, np.asarray(documents, dtype=np.int64), side="right") - 1

    def select_models(self, names: Sequence[str]) -> ActivationStore:
        """The same tokens as only some of the models read them, in the order of `names`.

        Masks and split stay: a token that is masked for any stored model is masked here too.
        InputError names a model that is not stored.
        """
        for name in names:
            if name not in self.model_names:
                raise InputError(f"{self.directory}: holds no activations of {name!r}")
        chosen = [self.model_names.index(name) for name in names]
        stored = self.model_places or tuple(range(self.n_models))
        return replace(
            self,
            manifest=self.manifest.of_models(chosen),
            model_places=tuple(stored[place] for place in chosen),
        )

    def split(self, held_out: float, seed: int) -> ActivationStore:
        """The same store with a random share of its documents held out from training.

        Only documents with unmasked tokens are drawn, at least one for each side; documents of one
        unit are on one side. InputError where there are fewer than two such units.
        """
        rows = self.documents.n_unmasked
        chosen = draw_held_out(rows, self.document_units, held_out, seed)
        return replace(self, held_out=chosen)

    def chosen_documents(self, documents: DocumentChoice = "all") -> torch.Tensor:
        """(n_documents,) bool of one side of the split; ValueError without a split."""
        if documents == "all":
            return torch.ones(self.n_documents, dtype=torch.bool)
        if self.held_out is None:
            raise ValueError(f'documents="{documents}" needs a store from split()')
        return self.held_out if documents == "held_out" else ~self.held_out

    def n_unmasked_of(self, documents: DocumentChoice = "all") -> int:
        """Unmasked tokens in one side of the split."""
        counts = torch.tensor(self.documents.n_unmasked, dtype=torch.int64)
        return int(counts[self.chosen_documents(documents)].sum())

    def n_batches(
        self,
        batch_size: int,
        documents: DocumentChoice = "all",
        epochs: float = 1.0,
        drop_last: bool = False,
    ) -> int:
        """How many batches `batches` yields with the same arguments."""
        per_epoch = self.n_unmasked_of(documents) / batch_size
        whole = math.floor(per_epoch) if drop_last else math.ceil(per_epoch)
        return round(epochs * whole)

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
        """Yield float32 (B, M, d) batches of unmasked tokens, each token once an epoch.

        With a generator the order is shuffled through a buffer of at most `buffer_bytes`
        (uniformly where the tokens fit into it); without one, tokens come in corpus order.
        The last batch of an epoch may be smaller unless `drop_last`. `start` skips that many
        batches: with a generator in the same state, the rest is the same as without skipping.
        """
        total = self.n_batches(batch_size, documents, epochs, drop_last)
        per_epoch = self.n_batches(batch_size, documents, 1.0, drop_last)
        if total == 0:
            return
        seed = _draw_seed(generator)
        source = RowSource(
            self.files,
            self.manifest,
            self.chosen_documents(documents),
            self.n_unmasked_of(documents),
            max(2 * batch_size, buffer_bytes // (4 * self.n_models * self.d_model)),
            self.model_places,
        )
        first_epoch, skipped = divmod(start, per_epoch)
        done = start
        for epoch in range(first_epoch, math.ceil(total / per_epoch)):
            for index, batch in enumerate(source.epoch(batch_size, seed, epoch)):
                if index < skipped:
                    continue
                if done >= total or (drop_last and len(batch) < batch_size):
                    break
                yield batch
                done += 1
            skipped = 0


def _draw_seed(generator: torch.Generator | None) -> int | None:
    if generator is None:
        return None
    return int(torch.randint(0, 1 << 62, (), generator=generator))


def write_store(
    directory: Path,
    activations: torch.Tensor,
    *,
    document: torch.Tensor | None = None,
    position: torch.Tensor | None = None,
    token_ids: torch.Tensor | None = None,
    roles: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    model_names: Sequence[str] | None = None,
    document_ids: Sequence[str] | None = None,
    shard_tokens: int = 16384,
    storage_dtype: str = "float32",
    layer: int = 0,
) -> ActivationStore:
    """Store activations (n, M, d) made elsewhere and open them.

    `document` (n,) must ascend; without it every 16 tokens are a document. Positions count up
    within a document, token ids are 0, roles PLAIN and every token takes part, unless given.
    """
    n, n_models, d_model = activations.shape
    if document is None:
        document = torch.arange(n) // 16
    document = document.to(torch.int32)
    if bool((document.diff() < 0).any()):
        raise ValueError("document must ascend")
    n_documents = int(document[-1]) + 1
    if position is None:
        first = torch.searchsorted(document, document)
        position = torch.arange(n) - first
    if mask is None:
        mask = torch.ones(n, dtype=torch.bool)
    if roles is None:
        roles = torch.full((n,), int(TokenRole.PLAIN))
    tokens = ShardTokens(
        activations=activations.to(STORAGE_DTYPES[storage_dtype]),
        norms=activations.float().norm(dim=-1),
        token_ids=(torch.zeros(n) if token_ids is None else token_ids).to(torch.int32),
        roles=roles.to(torch.uint8),
        document=document,
        position=position.to(torch.int32),
    )
    names = tuple(model_names or (f"model-{index}" for index in range(n_models)))
    source = HarvestSource(
        subjects=tuple(SubjectRecord(name=name, fingerprint="") for name in names),
        layer=layer,
        tokenizer_sha256="",
        template_sha256="",
        corpus_sha256="",
        config={},
    )
    pieces = _whole_document_slices(document, shard_tokens)
    records = []
    for index, piece in enumerate(pieces):
        part = ShardTokens(**{name: column[piece] for name, column in vars(tokens).items()})
        records.append(write_shard(directory, index, part))
    masks = [mask[piece] for piece in pieces]
    counted = tokens.norms[mask] if bool(mask.any()) else tokens.norms
    medians = counted.median(dim=0).values.tolist()
    table = DocumentTable(
        ids=tuple(document_ids or (f"document-{index}" for index in range(n_documents))),
        n_tokens=tuple(torch.bincount(document, minlength=n_documents).tolist()),
        n_unmasked=tuple(torch.bincount(document[mask], minlength=n_documents).tolist()),
    )
    write_documents(directory, table)
    manifest = HarvestManifest(
        source=source,
        d_model=d_model,
        n_documents=n_documents,
        shards=tuple(records),
        mask=write_masks(directory, records, masks, medians),
    )
    write_manifest(directory, manifest)
    return ActivationStore.open(directory)


def _whole_document_slices(document: torch.Tensor, shard_tokens: int) -> list[slice]:
    """Cut tokens into runs of about `shard_tokens` that end where a document ends."""
    ends = torch.cat(
        [(document.diff() != 0).nonzero().flatten() + 1, torch.tensor([len(document)])]
    )
    slices: list[slice] = []
    start = 0
    for end in ends.tolist():
        if end - start >= shard_tokens or end == len(document):
            slices.append(slice(start, end))
            start = end
    return slices
