"""The formats of other tools: what reads and writes a folder, and the latents exchanged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from crosscoder import limits
from crosscoder.registry import Registry
from labeler.errors import UsageError
from labeler.labeling.trials import ExampleAnswer, Method
from labeler.store.latents import LARGEST_INDEX
from labeler.text import clip

HUMAN = "human"
"""Author of what a person wrote."""


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
        """Write latents into the folder, which is there; returns how many were written.

        They come in the order of their numbers. A latent may have no explanation.
        """
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


@dataclass(frozen=True)
class ExportedCrosscoder:
    """What a format may say of the crosscoder; of an imported one hardly anything is known."""

    name: str
    models: tuple[str, ...] = ()
    """Names of its subject models."""
    layer: int = 0
    d_model: int | None = None


@dataclass(frozen=True)
class ExchangeExplanation:
    """An explanation of a latent by some author."""

    text: str
    author: str
    """Model or judge that wrote it, or `human`."""


@dataclass(frozen=True)
class ExchangeWindow:
    """Tokens with one activation each; `quantile` is None for the strongest texts."""

    tokens: tuple[str, ...]
    values: tuple[float, ...]
    quantile: int | None = None


@dataclass(frozen=True)
class ExchangeExample:
    """A text on which an explanation was tested."""

    answer: ExampleAnswer
    window: ExchangeWindow | None = None
    """The text that was shown; None where read from a file, which needs only the answers."""


@dataclass(frozen=True)
class ExchangeScore:
    """The examples on which an explanation was tested by one method."""

    method: Method
    examples: tuple[ExchangeExample, ...]

    @property
    def answers(self) -> tuple[ExampleAnswer, ...]:
        """Truth and answer of each example."""
        return tuple(example.answer for example in self.examples)


@dataclass(frozen=True)
class ExchangeLatent:
    """One latent of a dictionary."""

    index: int
    explanations: tuple[ExchangeExplanation, ...] = ()
    windows: tuple[ExchangeWindow, ...] = ()
    density: float | None = None
    max_activation: float | None = None
    scores: tuple[ExchangeScore, ...] = ()
    """Scores of the first explanation, at most one per method."""


def latent_index(where: object, value: Any) -> int:
    """A latent's number, written as text or as a number; UsageError for anything else."""
    text = "" if isinstance(value, bool) else str(value)
    number = limits.whole_number(text, LARGEST_INDEX)
    if number is None:
        shown = clip(text, 40)
        beyond = f"; the largest is {LARGEST_INDEX}" if text.isascii() and text.isdigit() else ""
        raise UsageError(f"{where}: {shown!r} is no latent's number{beyond}")
    return number


def window_of(where: object, tokens: Any, values: Any, quantile: int | None) -> ExchangeWindow:
    """A window from a file; UsageError where tokens and values do not fit together."""
    is_texts = isinstance(tokens, list) and all(isinstance(token, str) for token in tokens)
    is_numbers = isinstance(values, list) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )
    if not is_texts or not is_numbers or len(tokens) != len(values):
        raise UsageError(f"{where}: tokens and values must be lists of one length")
    return ExchangeWindow(tuple(tokens), tuple(float(value) for value in values), quantile)


def json_lines(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of a JSONL text with its place, such as `FILE: line 3`."""
    for number, line in limits.lines_of(text, path):
        yield f"{path}: line {number}", json_object(f"{path}: line {number}", line)


def json_object(where: object, text: str) -> dict[str, Any]:
    """A JSON object; UsageError for anything else."""
    value = limits.parse_json(text, where)
    if not isinstance(value, dict):
        raise UsageError(f"{where}: must be an object")
    return value
