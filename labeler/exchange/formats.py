"""The formats of other tools: what reads and writes a folder, and the options of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from crosscoder.registry import Registry
from labeler.errors import UsageError

if TYPE_CHECKING:
    from labeler.exchange.records import ExchangeLatent, ExportedCrosscoder


class FolderFormat:
    """A value of `--format`: a subclass registers itself in FORMATS, and reads, writes or both."""

    name: ClassVar[str]
    """Its value of `--format`."""
    options: ClassVar[Mapping[str, str]] = {}
    """Options that an export needs for this format alone, each with the reason."""
    takes_scores: ClassVar[bool] = False
    """Whether latents are written with the scores of their explanations."""

    def read(self, folder: Path) -> Sequence[ExchangeLatent]:
        """The latents of a folder; UsageError that names the file and the row that is wrong."""
        raise UsageError(f"--format: {self.name} is written only, nothing reads it")

    def write(
        self,
        folder: Path,
        latents: Sequence[ExchangeLatent],
        crosscoder: ExportedCrosscoder,
        options: Mapping[str, str],
    ) -> int:
        """Write latents, in the order of their numbers; returns how many were written."""
        raise UsageError(f"--format: {self.name} is read only, nothing writes it")


FORMATS: Registry[type[FolderFormat]] = Registry(
    "format",
    "difflens.formats",
    {
        "neuronpedia": "labeler.exchange.neuronpedia:Neuronpedia",
        "delphi": "labeler.exchange.delphi:Delphi",
        "saedashboard": "labeler.exchange.saedashboard:SaeDashboard",
    },
)
"""Formats by their names; a module is imported when its format is asked for."""


def check_options(form: str, given: Mapping[str, str | None]) -> dict[str, str]:
    """The options of an export that are given.

    UsageError where one that the format needs is missing or blank, or one goes with another format.
    """
    own = FORMATS.get(form).options
    for option, reason in own.items():
        if not (given.get(option) or "").strip():
            raise UsageError(f"{_flag(option)}: missing; {reason}")
    found = {option: value for option, value in given.items() if value is not None}
    for option in found.keys() - own.keys():
        raise UsageError(f"{only_with(option)}, {form} has no place for it")
    return found


def only_with(option: str) -> str:
    """With which formats an option goes, as a message begins."""
    names = [name for name in FORMATS.names() if option in FORMATS.get(name).options]
    return f"{_flag(option)}: goes with --format {' or '.join(names)}"


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"
