"""Shard files: the activations of all models, token by token, for some whole documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors import safe_open

from crosscoder.errors import InputError
from crosscoder.files import DamagedFileError, VerifiedFiles, set_aside, sha256_file
from crosscoder.manifest import MASK_NAME, MaskRecord, ShardRecord
from crosscoder.tensor_files import TENSOR_FILE_ERRORS, write_tensors

REMEDY = "`harvest` makes it again"
STORAGE_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class ShardTokens:
    """What was harvested for some whole documents; documents in order, tokens in order."""

    activations: torch.Tensor
    """(n, M, d) in the storage dtype."""
    norms: torch.Tensor
    """(n, M) float32 L2 norms, taken before the storage dtype rounded the activations."""
    token_ids: torch.Tensor
    """(n,) int32."""
    roles: torch.Tensor
    """(n,) uint8 TokenRole."""
    document: torch.Tensor
    """(n,) int32 index of the document in the corpus."""
    position: torch.Tensor
    """(n,) int32 position within the document, template tokens counted."""


@dataclass(frozen=True)
class Shard:
    """Some whole documents of a store; a document never spans two shards."""

    index: int
    activations: torch.Tensor
    """(n, M, d) float32 residual stream."""
    token_ids: torch.Tensor
    """(n,) int32."""
    roles: torch.Tensor
    """(n,) uint8 TokenRole."""
    document: torch.Tensor
    """(n,) int32 index of the document, ascending."""
    position: torch.Tensor
    """(n,) int32 position within the document, template tokens counted, ascending from 0."""
    mask: torch.Tensor
    """(n,) bool, true where the token takes part in training, scaling and evidence."""

    @property
    def n_tokens(self) -> int:
        """Tokens in the shard, masked ones included."""
        return int(self.token_ids.shape[0])

    def only(self, kept: torch.Tensor) -> Shard:
        """The tokens for which `kept` (n,) bool is true."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return Shard(
            **{name: each if name == "index" else each[kept] for name, each in columns.items()}
        )


def shard_name(index: int) -> str:
    """File name of a shard."""
    return f"shard-{index:05d}.safetensors"


def write_shard(directory: Path, index: int, tokens: ShardTokens) -> ShardRecord:
    """Write one shard whole and return its record; WorkError where the disk is full."""
    path = directory / shard_name(index)
    write_tensors(path, dict(vars(tokens)))
    documents = tokens.document.unique()
    return ShardRecord(
        file=path.name,
        sha256=sha256_file(path),
        n_bytes=path.stat().st_size,
        n_tokens=int(tokens.token_ids.shape[0]),
        first_document=int(documents[0]),
        n_documents=int(documents.numel()),
    )


def write_masks(
    directory: Path,
    records: Sequence[ShardRecord],
    masks: Sequence[torch.Tensor],
    median_norms: Sequence[float],
) -> MaskRecord:
    """Write the mask (n,) of every shard into one file."""
    path = directory / MASK_NAME
    write_tensors(path, {record.file: mask for record, mask in zip(records, masks, strict=True)})
    return MaskRecord(
        sha256=sha256_file(path),
        n_unmasked=sum(int(mask.sum()) for mask in masks),
        median_norms=tuple(median_norms),
    )


class ShardFiles:
    """The shards of one folder and their mask, read through the hashes that its manifest records.

    Nothing of a file is handed out before the file was hashed, once for each `VerifiedFiles`. A
    thread does that while the tensors are read, and for the shards named to `expect` while the
    rows of earlier ones are used. A file that differs is set aside, so that the next harvest makes
    it again, and every method raises DamagedFileError for it.
    """

    def __init__(
        self,
        directory: Path,
        records: Sequence[ShardRecord],
        mask: MaskRecord | None = None,
        verified: VerifiedFiles | None = None,
    ) -> None:
        self.directory = directory
        self.records = tuple(records)
        self._mask = mask
        self._verified = verified or VerifiedFiles()

    def expect(self, index: int) -> None:
        """Start hashing a shard that will be asked for soon."""
        self._verified.begin(self.path(index))

    def path(self, index: int) -> Path:
        """File of a shard."""
        return self.directory / self.records[index].file

    def is_whole(self, index: int) -> bool:
        """Whether a shard is what its record says."""
        path, record = self.path(index), self.records[index]
        size_fits = path.is_file() and path.stat().st_size == record.n_bytes
        return size_fits and self._verified.agrees(path, record.sha256)

    def has_mask(self) -> bool:
        """Whether the masks are there and what their record says."""
        path = self.directory / MASK_NAME
        return self._mask is not None and self._verified.agrees(path, self._mask.sha256)

    def columns(self, index: int, names: Sequence[str]) -> list[torch.Tensor]:
        """Some tensors of a shard, without reading the others."""
        return self._read(self.path(index), self.records[index].sha256, names)

    def mask(self, index: int) -> torch.Tensor:
        """The mask (n,) of a shard."""
        sha256 = self._mask.sha256 if self._mask else ""
        (mask,) = self._read(self.directory / MASK_NAME, sha256, [self.records[index].file])
        return mask

    def shard(self, index: int, models: Sequence[int] | None = None) -> Shard:
        """A whole shard with its mask; `models` are places on the stored axis, None is all."""
        names = ["activations", "token_ids", "roles", "document", "position"]
        activations, token_ids, roles, document, position = self.columns(index, names)
        return Shard(
            index=index,
            activations=_of_models(activations, models).float(),
            token_ids=token_ids,
            roles=roles,
            document=document,
            position=position,
            mask=self.mask(index),
        )

    def rows(
        self, index: int, rows: torch.Tensor, models: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Activations (len(rows), M, d) float32 of some tokens, of all or some models."""
        (activations,) = self.columns(index, ["activations"])
        return _of_models(activations[rows], models).float()

    def _read(self, path: Path, sha256: str, names: Sequence[str]) -> list[torch.Tensor]:
        self._verified.begin(path)
        try:
            with safe_open(path, framework="pt") as file:
                tensors = [file.get_tensor(name) for name in names]
        except TENSOR_FILE_ERRORS as error:
            if self._verified.agrees(path, sha256):
                raise InputError(f"{path}: cannot be read: {error}") from None
            raise set_aside(DamagedFileError(path, REMEDY)) from None
        if not self._verified.agrees(path, sha256):
            raise set_aside(DamagedFileError(path, REMEDY))
        return tensors


def _of_models(activations: torch.Tensor, models: Sequence[int] | None) -> torch.Tensor:
    return activations if models is None else activations[:, list(models)]
