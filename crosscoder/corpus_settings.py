"""Where the text of a study comes from: the keys of a source, and the names of the formats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from crosscoder.config import Settings
from crosscoder.registry import Registry

if TYPE_CHECKING:
    from crosscoder.corpus_formats import CorpusFormat

CORPUS_FORMATS: Registry[type[CorpusFormat]] = Registry(
    "corpus format",
    "difflens.corpus_formats",
    {
        "auto": "crosscoder.corpus_formats:Detected",
        "messages": "crosscoder.corpus_formats:Messages",
        "sharegpt": "crosscoder.corpus_formats:ShareGpt",
        "lmsys": "crosscoder.corpus_formats:Lmsys",
        "preference": "crosscoder.corpus_formats:Preference",
        "alpaca": "crosscoder.corpus_formats:Alpaca",
        "prompt": "crosscoder.corpus_formats:PromptResponse",
        "text": "crosscoder.corpus_formats:PlainText",
    },
)
"""Shapes of a row, in the order in which `auto` tries them; none is imported before it is used."""

HUB = "hf:"
"""What the path of a dataset on the Hub begins with."""

PreferenceSide = Literal["chosen", "rejected", "both"]


class SourceSettings(Settings):
    """How the rows of one file, folder or Hub dataset become documents."""

    format: Annotated[str, CORPUS_FORMATS] = "auto"
    """Shape of the rows. `auto` looks at the keys of each row: `messages` (`role`, `content`),
    `sharegpt` (`conversations` of `from`, `value`), `lmsys` (`conversation`), `preference`
    (`chosen`, `rejected`), `alpaca` (`instruction`, `input`, `output`), `prompt` (`prompt` and
    `response` or the like), `text` (`text` or `content`)."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Names of your own columns, by the name that the format knows: `{ text = "body" }`. Where a
    column of text is named, no other is read; `id = ""` numbers the rows instead."""
    preference: PreferenceSide = "chosen"
    """Which answer of a preference pair is read; `both` makes two documents that count as one
    independent unit."""

    split: str | None = None
    """Split of a saved `datasets` folder or a Hub dataset; without it `train`, or the only one."""
    subset: str | None = None
    """Subset (configuration) of a Hub dataset."""
    revision: str | None = None
    """Branch, tag or commit of a Hub dataset; without it, the main branch."""
    streaming: bool = True
    """Whether a Hub dataset is read as it arrives, up to `first`, or downloaded whole."""
    first: int | None = Field(None, ge=1)
    """Rows of the source that are looked at; without it, all."""
    sample: int | None = Field(None, ge=1)
    """Rows that are drawn at random, by `corpus.seed`, from those looked at; without it, all are
    read. A source that has fewer gives all it has."""
    faulty: Literal["refuse", "drop"] = "refuse"
    """What becomes of a row that cannot be read, or has no text: `refuse` stops and names it,
    `drop` leaves it out. `difflens corpus check` counts such rows by their reason."""

    @field_validator("columns")
    @classmethod
    def _columns_are_named(cls, columns: dict[str, str]) -> dict[str, str]:
        empty = next((key for key, name in columns.items() if not name and key != "id"), None)
        if empty is not None:
            raise ValueError(f"{empty}: name a column, or leave the key out")
        return columns

    def deciding(self) -> dict[str, object]:
        """Keys that were set to something else than their default: what decides what is read."""
        values = self.model_dump(include=set(SourceSettings.model_fields) - {"streaming"})
        defaults = SourceSettings().model_dump()
        return {key: value for key, value in values.items() if value != defaults[key]}
