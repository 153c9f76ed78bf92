"""The tables that say what is studied and what it reads."""

from __future__ import annotations

from pydantic import Field, model_validator

from crosscoder.settings import HarvestSettings, SplitSettings, StoredType, TextSettings
from labeler.sections.base import Section


class StudySection(Section):
    """`[study]`: what the study is called and the seed that all its stages derive theirs from."""

    name: str = "study"
    """Name shown in the report."""
    title: str | None = None
    """Headline of the report; without it, the two sides of the first comparison."""
    seed: int = 0
    """Seed of the document split, the crosscoder, and every random draw."""


class DatabaseSection(Section):
    """`[database]`: where the results live."""

    url: str = "sqlite:///difflens.db"
    """SQLAlchemy URL; a relative SQLite path lies beside study.toml, `${NAME}` is expanded; `%3F`
    is a `?` in a path."""


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
    dtype: StoredType = "float32"
    """Weights' type while the model reads."""

    @model_validator(mode="after")
    def _check_adapter_revision(self) -> ModelSection:
        if self.adapter_revision is not None and self.adapter is None:
            raise ValueError("adapter_revision: no adapter is named; name it, or leave the key out")
        return self


class CorpusSection(Section, TextSettings):
    """`[corpus]`: the text that every model reads."""

    path: str
    """JSONL: `{"id", "messages": [...]}` or `{"id", "text"}` a line."""


class HarvestSection(Section, HarvestSettings, SplitSettings):
    """`[harvest]`: which activations are kept."""

    cache: bool = True
    """Store the activations; `false` has the models read anew in every pass, for text whose
    activations would not fit on a disk."""
