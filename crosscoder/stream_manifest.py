"""What is kept of a stream of activations: where they come from and what a sample showed."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from crosscoder.integrity import (
    DamagedFileError,
    read_json_object,
    unsealed,
    write_sealed_json,
)
from crosscoder.manifest import HarvestSource, Record, TextPlan, planned_key

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
