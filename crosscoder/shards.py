"""Shard files: the activations of all models, token by token, for some whole documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from crosscoder.errors import InputError
from crosscoder.files import sha256_file, write_tensors
from crosscoder.manifest import MASK_NAME, MaskRecord, ShardRecord

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


def read_columns(directory: Path, record: ShardRecord, names: Sequence[str]) -> list[torch.Tensor]:
    """Some tensors of a shard, without reading the others."""
    path = directory / record.file
    try:
        with safe_open(path, framework="pt") as file:
            return [file.get_tensor(name) for name in names]
    except (OSError, SafetensorError):
        raise _damaged(path) from None


def read_mask(directory: Path, record: ShardRecord) -> torch.Tensor:
    """The mask (n,) of one shard."""
    path = directory / MASK_NAME
    try:
        with safe_open(path, framework="pt") as file:
            mask: torch.Tensor = file.get_tensor(record.file)
    except (OSError, SafetensorError):
        raise _damaged(path) from None
    return mask


def read_shard(
    directory: Path, index: int, record: ShardRecord, models: Sequence[int] | None = None
) -> Shard:
    """Read one whole shard with its mask; InputError where a file is missing or damaged.

    `models` are places on the stored model axis, None is all of them.
    """
    path = directory / record.file
    try:
        tensors = load_file(path)
        return Shard(
            index=index,
            activations=_of_models(tensors["activations"], models).float(),
            token_ids=tensors["token_ids"],
            roles=tensors["roles"],
            document=tensors["document"],
            position=tensors["position"],
            mask=read_mask(directory, record),
        )
    except (OSError, SafetensorError, KeyError):
        raise _damaged(path) from None


def read_rows(
    directory: Path, record: ShardRecord, rows: torch.Tensor, models: Sequence[int] | None = None
) -> torch.Tensor:
    """Activations (len(rows), M, d) float32 of some tokens of a shard, of all or some models."""
    (activations,) = read_columns(directory, record, ["activations"])
    return _of_models(activations[rows], models).float()


def _of_models(activations: torch.Tensor, models: Sequence[int] | None) -> torch.Tensor:
    return activations if models is None else activations[:, list(models)]


def _damaged(path: Path) -> InputError:
    return InputError(f"{path}: missing or damaged; harvest again")
