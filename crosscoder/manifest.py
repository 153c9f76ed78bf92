"""What a folder of activations holds and what it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from crosscoder.errors import InputError
from crosscoder.files import canonical_json, sha256_text, write_text

MANIFEST_NAME = "manifest.json"
DOCUMENTS_NAME = "documents.json"
MASK_NAME = "mask.safetensors"
FORMAT_VERSION = 1


class Record(BaseModel):
    """An immutable part of the manifest; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SubjectRecord(Record):
    """One model whose activations are stored, in the order of the model axis."""

    name: str
    fingerprint: str
    """SHA-256 over weights, adapter, tokenizer and template; empty where it is not known."""
    dtype: str = "float32"
    """Weights' type while the model read."""


class HarvestSource(Record):
    """Everything that decides the stored numbers; two folders with equal sources are equal."""

    subjects: tuple[SubjectRecord, ...]
    layer: int
    """Decoder block, counted from 0, whose output was read."""
    tokenizer_sha256: str
    template_sha256: str
    corpus_sha256: str
    """SHA-256 over the documents' identifiers, roles and text."""
    config: dict[str, Any]
    """The configuration of the harvest."""

    @property
    def key(self) -> str:
        """SHA-256 of the source: the address of its activations."""
        return sha256_text(canonical_json(self.model_dump(mode="json")))


class ShardRecord(Record):
    """One whole shard file."""

    file: str
    sha256: str
    n_bytes: int
    n_tokens: int
    first_document: int
    n_documents: int


class MaskRecord(Record):
    """What is known once every shard is there: which tokens take part."""

    sha256: str
    n_unmasked: int
    median_norms: tuple[float, ...]
    """Median L2 norm of the content tokens, per model."""


class HarvestManifest(Record):
    """The content of `manifest.json`, rewritten whole after each shard."""

    format_version: int = FORMAT_VERSION
    source: HarvestSource
    d_model: int
    """Width of the residual stream."""
    n_documents: int
    shards: tuple[ShardRecord, ...] = ()
    mask: MaskRecord | None = None

    @property
    def complete(self) -> bool:
        """Whether every shard and the mask are there."""
        return self.mask is not None

    @property
    def key(self) -> str:
        """SHA-256 of everything that decided the stored numbers."""
        return self.source.key

    @property
    def n_tokens(self) -> int:
        """Tokens in the whole shards."""
        return sum(shard.n_tokens for shard in self.shards)

    @property
    def model_names(self) -> tuple[str, ...]:
        """Names of the models, in the order of the model axis."""
        return tuple(subject.name for subject in self.source.subjects)

    def of_models(self, places: Sequence[int]) -> HarvestManifest:
        """The manifest as if only the models at those places, in that order, had been read."""
        subjects = tuple(self.source.subjects[place] for place in places)
        changes: dict[str, Any] = {"source": self.source.model_copy(update={"subjects": subjects})}
        if self.mask is not None:
            medians = tuple(self.mask.median_norms[place] for place in places)
            changes["mask"] = self.mask.model_copy(update={"median_norms": medians})
        return self.model_copy(update=changes)


class DocumentTable(Record):
    """The documents of a store, by document index."""

    ids: tuple[str, ...]
    n_tokens: tuple[int, ...]
    n_unmasked: tuple[int, ...]


def write_manifest(directory: Path, manifest: HarvestManifest) -> None:
    """Write `manifest.json` whole."""
    write_text(directory / MANIFEST_NAME, manifest.model_dump_json(indent=2) + "\n")


def read_manifest(directory: Path) -> HarvestManifest | None:
    """The manifest of a folder, or None where there is none; InputError where it is damaged."""
    path = directory / MANIFEST_NAME
    if not path.is_file():
        return None
    try:
        manifest = HarvestManifest.model_validate_json(path.read_bytes())
    except ValidationError:
        raise InputError(
            f"{path}: no manifest that this version reads; remove {directory} and harvest again"
        ) from None
    if manifest.format_version != FORMAT_VERSION:
        raise InputError(
            f"{path}: format {manifest.format_version}, this version reads {FORMAT_VERSION}; "
            "harvest again"
        )
    return manifest


def write_documents(directory: Path, table: DocumentTable) -> None:
    """Write `documents.json` whole."""
    write_text(directory / DOCUMENTS_NAME, table.model_dump_json() + "\n")


def read_documents(directory: Path) -> DocumentTable:
    """Read `documents.json`; InputError where it is missing or damaged."""
    path = directory / DOCUMENTS_NAME
    try:
        return DocumentTable.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise InputError(f"{path}: missing or damaged; harvest again") from None
