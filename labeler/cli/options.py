"""Options that commands share, and output that arrives whatever the terminal's encoding."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

StudyPath = Annotated[Path, typer.Argument(help="The study's config file.", metavar="study.toml")]
LatentName = Annotated[
    str, typer.Argument(help="`crosscoder:latent_index`, or `id:latent_id`.", metavar="LATENT")
]

MaxTokens = Annotated[
    int | None,
    typer.Option(
        "--max-tokens-total",
        min=0,
        help="Stop before the tokens of the study's judge calls, earlier ones too, pass this.",
    ),
]
MaxCost = Annotated[
    float | None,
    typer.Option(min=0, help="Stop before the cost of the study's judge calls passes this."),
]


def prepare_streams() -> None:
    """Make stdout and stderr take any text.

    What an encoding cannot show becomes an escape such as `\\u2013`. A descriptor that the caller
    closed is opened on the null device, so that no file of the study takes its number.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.FileIO(0, "r", closefd=False), encoding="utf-8")
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    encoding = "utf-8" if sys.stderr is None else sys.stderr.encoding
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Lossy(2, "w", closefd=False)),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=True,
    )


def print_data(text: str) -> None:
    """Print what programs read: UTF-8 whatever the locale, unless a terminal shows it."""
    stream = sys.stdout
    if isinstance(stream, io.TextIOWrapper) and not stream.isatty():
        stream.flush()
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    stream.write(text)
    stream.flush()


def discard_stdout() -> None:
    """Write what is left of stdout nowhere, where nobody reads on or the device is full."""
    if sys.__stdout__ is None:
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.__stdout__.fileno())
    os.close(null)


class _Lossy(io.FileIO):
    """stderr: a terminal that was closed or a full disk loses the words, not the work."""

    def write(self, data: object) -> int:
        """Write what can be written, and say that all was."""
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError:
            return len(memoryview(data))  # type: ignore[arg-type]
