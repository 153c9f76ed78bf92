"""What was harvested and from what: the manifests of stored and of streamed activations."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from crosscoder.corpus import TokenRole
from crosscoder.errors import InputError
from crosscoder.files import (
    DamagedFileError,
    json_sha256,
    read_json_object,
    set_aside,
    sha256_text,
    unsealed,
    write_sealed_json,
)

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
    """Everything that decides the stored numbers, but for the day that a template shows."""

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
        """SHA-256 of the source."""
        return json_sha256(self.model_dump(mode="json"))


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


class RoleText(Record):
    """The messages of one role (or the documents without messages) before and after rendering."""

    role: str
    """A TokenRole in lower case."""
    n_messages: int
    n_whole: int
    """Messages of which the rendered text lacks nothing but white space."""
    n_in_part: int
    n_absent: int
    n_characters: int
    """Characters of the messages, white space aside."""
    n_lost: int
    """Those that the rendered text lacks."""
    n_cut: int
    """Tokens beyond the longest length."""
    n_tokens: int | None = None
    """Tokens that take part; None where only the models could tell."""
    losses: tuple[str, ...] = ()
    """What the template does to the messages, and in which document first."""


class TextRecord(Record):
    """What became of the corpus when it was rendered and cut, by role."""

    roles: tuple[RoleText, ...]
    n_refused: int
    """Documents for which the template has no text."""
    n_cut: int
    """Documents longer than the longest length."""


class TextPlan(Record):
    """The tokens that are read: what the corpus became on the day that its template shows."""

    date: dt.date
    """What the chat template's clock shows."""
    sha256: str
    """SHA-256 over the tokens of every document, their roles, and the cut into shards."""
    text: TextRecord

    def with_tokens(self, by_role: Sequence[int]) -> TextPlan:
        """The plan with the tokens that take part, given by TokenRole."""
        names = [role.name.lower() for role in TokenRole]
        rows = (
            row.model_copy(update={"n_tokens": by_role[names.index(row.role)]})
            for row in self.text.roles
        )
        text = self.text.model_copy(update={"roles": tuple(rows)})
        return self.model_copy(update={"text": text})


class HarvestManifest(Record):
    """The content of `manifest.json`, rewritten whole after each shard."""

    format_version: int = FORMAT_VERSION
    source: HarvestSource
    plan: TextPlan | None = None
    """None in a store that was not made from text."""
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
        return planned_key(self.source, self.plan)

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
    units: tuple[int, ...] | None = None
    """See `crosscoder.corpus.document_units`; None = each document is one of its own."""


def planned_key(source: HarvestSource, plan: TextPlan | None) -> str:
    """SHA-256 of a source and of the tokens that were read: the day is not part of the source."""
    return source.key if plan is None else sha256_text(source.key + plan.sha256)


def write_manifest(directory: Path, manifest: HarvestManifest) -> None:
    """Write `manifest.json` whole, with the hash of its content."""
    write_sealed_json(directory / MANIFEST_NAME, manifest.model_dump(mode="json"), indent=2)


def read_manifest(directory: Path) -> HarvestManifest | None:
    """The manifest of a folder, or None where there is none; InputError where it is damaged."""
    path = directory / MANIFEST_NAME
    if not path.is_file():
        return None
    remedy = f"remove {directory} and harvest again"
    content = read_json_object(path, remedy)
    version = content.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path}: format {version!r}, this version reads {FORMAT_VERSION}; {remedy}"
        )
    try:
        return HarvestManifest.model_validate(unsealed(path, content, remedy))
    except ValidationError:
        raise InputError(f"{path}: no manifest that this version reads; {remedy}") from None


def write_documents(directory: Path, table: DocumentTable) -> None:
    """Write `documents.json` whole, with the hash of its content."""
    write_sealed_json(directory / DOCUMENTS_NAME, table.model_dump(mode="json"))


def read_documents(directory: Path) -> DocumentTable:
    """Read `documents.json`; DamagedFileError where it is missing or damaged."""
    path, remedy = directory / DOCUMENTS_NAME, "`harvest` makes it again"
    try:
        return DocumentTable.model_validate(unsealed(path, read_json_object(path, remedy), remedy))
    except DamagedFileError as error:
        raise set_aside(error) from None
    except ValidationError:
        raise set_aside(DamagedFileError(path, remedy)) from None


STREAM_NAME = "stream.json"


class StreamManifest(Record):
    """The content of `stream.json`."""

    source: HarvestSource
    plan: TextPlan | None = None
    """None in a folder of an earlier version."""
    d_model: int
    """Width of the residual stream."""
    median_norms: tuple[float, ...]
    """Median L2 norm of the sample's content tokens, per model: what the mask compares with."""
    n_sampled: int
    """Tokens of the sample."""
    ordinary_share: float
    """Share of the sample's eligible tokens whose norms are ordinary in every model."""
    n_eligible: tuple[int, ...]
    """Content tokens behind the first ones, by document index."""

    @property
    def key(self) -> str:
        """SHA-256 of everything that decides the numbers."""
        return planned_key(self.source, self.plan)


def write_stream_manifest(directory: Path, manifest: StreamManifest) -> None:
    """Write `stream.json` whole, with the hash of its content."""
    write_sealed_json(directory / STREAM_NAME, manifest.model_dump(mode="json"))


def read_stream_manifest(directory: Path) -> StreamManifest | None:
    """The manifest of a folder, or None where there is none; DamagedFileError where changed."""
    path, remedy = directory / STREAM_NAME, "the models read the sample again"
    if not path.is_file():
        return None
    content = unsealed(path, read_json_object(path, remedy), remedy)
    try:
        return StreamManifest.model_validate(content)
    except ValidationError:
        raise DamagedFileError(path, remedy) from None
