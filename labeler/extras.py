"""Libraries that a plain `pip install difflens` leaves out, and the extra that brings each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Literal

from labeler.errors import UsageError

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
