"""Errors of usage and of work, and the extra that installs a missing library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Literal

from crosscoder.errors import InputError as UsageError
from crosscoder.errors import WorkError
from taxonomy.errors import InputError as TaxonomyInputError

__all__ = ["USAGE_ERRORS", "Place", "UsageError", "WorkError", "doing"]

USAGE_ERRORS = (UsageError, TaxonomyInputError)
"""Errors about input that is wrong."""


class Place(str):
    """A note on an error: the step in which it happened."""

    __slots__ = ()


@contextmanager
def doing(words: str) -> Iterator[None]:
    """Add a Place with these words (a stage, a file, a row) to any error that leaves the block.

    The command line prints the places of an unexpected error, outermost first.
    """
    try:
        yield
    except Exception as error:
        error.add_note(Place(words))
        raise


Extra = Literal["data", "models", "postgres", "vllm"]

LIBRARIES: dict[Extra, tuple[str, ...]] = {
    "models": (
        "torch", "transformers", "peft", "gguf", "safetensors", "tokenizers", "huggingface_hub",
    ),
    "data": ("datasets", "pyarrow", "zstandard"),
    "postgres": ("psycopg",),
}  # fmt: skip
"""The modules that the code imports; vLLM runs in a separate process."""


def install_command(extra: Extra) -> str:
    """The command that installs difflens with an extra."""
    return f'pip install "difflens[{extra}]"'


def require_extra(extra: Extra, who: str) -> None:
    """Raise UsageError where a library of the extra is not installed; nothing is imported.

    `who` is the command, stage or key that needs it.
    """
    for library in LIBRARIES[extra]:
        if find_spec(library) is None:
            raise UsageError(_words(who, library, extra))


@contextmanager
def naming_extra(who: str) -> Iterator[None]:
    """Turn a ModuleNotFoundError for a library of an extra into a UsageError."""
    try:
        yield
    except ModuleNotFoundError as error:
        if words := missing_extra(error, who):
            raise UsageError(words) from error
        raise


def missing_extra(error: BaseException, who: str) -> str | None:
    """What to install for `who`; None where the error is not a missing library of an extra."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return None
    library = error.name.partition(".")[0]
    for extra, libraries in LIBRARIES.items():
        if library in libraries:
            return _words(who, library, extra)
    return None


def _words(who: str, library: str, extra: Extra) -> str:
    return f"{who}: needs {library}, which is not installed; {install_command(extra)}"
