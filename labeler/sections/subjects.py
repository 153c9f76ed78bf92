"""The tables that say what is studied and what it reads."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from pydantic import Field, model_validator

from labeler.sections.base import Section


class StudySection(Section):
    """`[study]`: what the study is called and the seed that all its stages derive theirs from."""

    name: str = "study"
    """Name shown in the report."""
    title: str | None = None
    """Headline of the report; the comparison's name where it is missing."""
    seed: int = 0
    """Seed of the document split, the crosscoder, and every random draw."""


class DatabaseSection(Section):
    """`[database]`: where the results live."""

    url: str = "sqlite:///difflens.db"
    """SQLAlchemy URL; a relative SQLite path lies beside study.toml, `${NAME}` is expanded."""


class ModelSection(Section):
    """`[[models]]`: one subject model."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name used in the config, the database and the report."""
    path: str
    """A local folder, a GGUF file, or a Hub name."""
    adapter: str | None = None
    """Folder or Hub name of a PEFT adapter put on top of `path`."""
    revision: str | None = None
    """Hub revision of `path`: a branch, tag or commit; empty: the main branch."""
    adapter_revision: str | None = None
    """Hub revision of `adapter`: a branch, tag or commit; empty: the main branch."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Weights' type while the model reads."""

    @model_validator(mode="after")
    def _check_adapter_revision(self) -> ModelSection:
        if self.adapter_revision is not None and self.adapter is None:
            raise ValueError("adapter_revision: no adapter is named; name it, or leave the key out")
        return self


class CorpusSection(Section):
    """`[corpus]`: the text that every model reads."""

    path: str
    """JSONL: `{"id", "messages": [...]}` or `{"id", "text"}` a line."""
    max_length: int = Field(512, ge=8)
    """Tokens after which a document is cut."""
    date: dt.date | None = None
    """Day that the clock of a chat template shows (`"2025-01-31"`); where it is missing, the day of
    the study's first run, in UTC."""
    max_lost: float = Field(0.05, ge=0, le=1)
    """Largest share, for each role, of the messages' characters (white space aside) that may be
    missing in what the chat template renders; `harvest` refuses to go on above it. Documents that
    the template refuses count as missing, and are left out below it."""


class HarvestSection(Section):
    """`[harvest]`: which activations are kept."""

    layer: int = Field(ge=0)
    """Decoder block, counted from 0, whose output (residual stream) is read."""
    batch_tokens: int = Field(2048, ge=16)
    """Padded tokens in one forward pass."""
    shard_tokens: int = Field(16384, ge=64)
    """Tokens in one shard file."""
    storage_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the stored activations."""
    skip_first: int = Field(4, ge=0)
    """Content tokens masked at the start of a document (their norms are outliers)."""
    max_norm_ratio: float = Field(4.0, gt=1)
    """A token whose norm exceeds this multiple of the model's median norm is masked."""
    template_model: str | None = None
    """Model whose chat template is used where the models' templates differ."""
    cache: bool = True
    """Store the activations; `false` has the models read anew in every pass, for text whose
    activations would not fit on a disk."""
    held_out: float = Field(0.1, gt=0, lt=0.9)
    """Share of documents kept from training, for theta and reconstruction quality."""
