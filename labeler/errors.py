"""Errors of the user and of the work, and which extra brings a library that is missing."""

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
"""All that say that something given is wrong."""


class Place(str):
    """A note on an error: what was being done when it happened."""

    __slots__ = ()


@contextmanager
def doing(words: str) -> Iterator[None]:
    """Note on whatever error leaves the block what was being done: a stage, a file, a row.

    The command line prints these places, outermost first, for errors that do not say themselves
    what is wrong.
    """
    try:
        yield
    except Exception as error:
        error.add_note(Place(words))
        raise


Extra = Literal["models", "postgres", "vllm"]

LIBRARIES: dict[Extra, tuple[str, ...]] = {
    "models": (
        "torch", "transformers", "peft", "gguf", "safetensors", "tokenizers", "huggingface_hub",
    ),
    "postgres": ("psycopg",),
}  # fmt: skip
"""The modules that the code imports; vLLM runs in a process of its own."""


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
    """Raise a library of an extra that the block does not find as UsageError."""
    try:
        yield
    except ModuleNotFoundError as error:
        if words := missing_extra(error, who):
            raise UsageError(words) from error
        raise


def missing_extra(error: BaseException, who: str) -> str | None:
    """What to install for `who`, where the error is that a library of an extra is missing."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return None
    library = error.name.partition(".")[0]
    for extra, libraries in LIBRARIES.items():
        if library in libraries:
            return _words(who, library, extra)
    return None


def _words(who: str, library: str, extra: Extra) -> str:
    return f"{who}: needs {library}, which is not installed; {install_command(extra)}"
