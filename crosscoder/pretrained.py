"""The one door to the libraries that read model folders: none of a folder's code runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crosscoder.errors import InputError, WorkError

_LONGEST_REASON = 300
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "not enough memory")


def load_pretrained(factory: Any, where: str, folder: Path, **options: Any) -> Any:
    """`factory.from_pretrained` of a local folder, without its code and without the network.

    Left to itself the library asks on the terminal whether to run the code.

    Raises InputError, which begins with `where`, for whatever the library makes of the folder,
    and WorkError where the model does not fit into memory.
    """
    with reading(f"{where}: {folder}"):
        return factory.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True, **options
        )


@contextmanager
def reading(what: str, problem: str = "cannot be loaded") -> Iterator[None]:
    """Turn whatever is raised while a library reads the files of `what` into one line.

    By place and not by type: what the libraries raise of a broken file differs between them and
    changes with every version. Raises InputError, "`what` `problem`: the library's words", and
    WorkError where memory is short.
    """
    try:
        with without_bars():
            yield
    except (InputError, WorkError):
        raise
    except MemoryError as error:
        raise _too_large(what) from error
    except Exception as error:
        if any(words in str(error).lower() for words in _OUT_OF_MEMORY):
            raise _too_large(what) from error
        raise _complaint(what, problem, error) from error
    except BaseException as error:
        # tokenizers and safetensors are written in Rust, whose panics are no Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise _complaint(what, problem, error) from error


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep the library's own progress bars off the terminal."""
    from transformers.utils import logging as library_logging

    enabled = library_logging.is_progress_bar_enabled()
    library_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            library_logging.enable_progress_bar()


def one_line(error: BaseException) -> str:
    """What an error says, on one line of bounded length."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= _LONGEST_REASON else f"{words[:_LONGEST_REASON]}..."


def _complaint(what: str, problem: str, error: BaseException) -> InputError:
    if "trust_remote_code" in str(error):
        return InputError(
            f"{what} needs code of its own, which difflens does not run; "
            "give a model whose architecture and tokenizer transformers itself knows"
        )
    return InputError(f"{what} {problem}: {one_line(error)}")


def _too_large(what: str) -> WorkError:
    return WorkError(
        f"{what} does not fit into memory; free some, use a narrower dtype, or a machine with more"
    )
