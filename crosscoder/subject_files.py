"""Where a subject model lies: a local folder, a GGUF file or a Hub name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crosscoder.errors import InputError

DTYPES = ("float32", "bfloat16", "float16")

LOADING_ERRORS = (OSError, ValueError, KeyError, RuntimeError, ImportError)


@dataclass(frozen=True)
class SubjectSpec:
    """Where a subject model lies."""

    name: str
    """Name in the config and in every artifact."""
    path: str
    """A local folder, a GGUF file, or a Hub name."""
    adapter: str | None = None
    """Folder or Hub name of a PEFT adapter put on top of `path`."""
    revision: str | None = None
    """Hub revision of `path`."""
    gguf_file: str | None = None
    """GGUF file within the folder or Hub repository `path`."""
    dtype: str = "float32"
    """Weights' type while the model reads: float32, bfloat16 or float16."""


def is_local(spec: SubjectSpec) -> bool:
    """Whether the path is a file or folder of this machine."""
    return Path(spec.path).expanduser().exists()


def local_folder(spec: SubjectSpec) -> Path:
    """The folder of a local model; for a GGUF file the folder that holds it."""
    path = Path(spec.path).expanduser()
    return path.parent if path.is_file() else path


def gguf_path(spec: SubjectSpec) -> Path | None:
    """The GGUF file of a local model, or None; InputError where a folder holds several."""
    path = Path(spec.path).expanduser()
    if path.is_file():
        return path if path.suffix == ".gguf" else None
    if spec.gguf_file is not None:
        return path / spec.gguf_file
    if not path.is_dir() or (path / "config.json").is_file():
        return None
    found = sorted(path.glob("*.gguf"))
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise InputError(
            f"model {spec.name!r}: {path} holds several GGUF files ({names}); "
            "give the path of one of them"
        )
    return found[0] if found else None


def check_location(spec: SubjectSpec) -> None:
    """Check that a local model is there before a library gives its own, longer complaint."""
    if spec.dtype not in DTYPES:
        raise InputError(f"model {spec.name!r}: dtype {spec.dtype!r}; use {', '.join(DTYPES)}")
    path = Path(spec.path).expanduser()
    if not path.exists():
        if path.is_absolute() or spec.path.startswith((".", "~")) or spec.path.count("/") != 1:
            raise InputError(
                f"model {spec.name!r}: {path} does not exist; "
                "mend its path, or give a Hub name as owner/name"
            )
        return
    gguf = gguf_path(spec)
    if gguf is not None:
        if not gguf.is_file():
            raise InputError(f"model {spec.name!r}: {gguf} does not exist; mend its gguf_file")
    elif path.is_file():
        raise InputError(f"model {spec.name!r}: {path} is no GGUF file; give the model's folder")
    elif not (path / "config.json").is_file():
        if (path / "adapter_config.json").is_file():
            raise InputError(
                f"model {spec.name!r}: {path} is an adapter; "
                "give it as `adapter` and its base model as `path`"
            )
        raise InputError(f"model {spec.name!r}: {path} holds no config.json; give a model's folder")


def from_pretrained(factory: Any, spec: SubjectSpec, **options: Any) -> Any:
    """Call a transformers factory; InputError in one line where it fails."""
    gguf = gguf_path(spec)
    if gguf is not None:
        options["gguf_file"] = gguf.name
    elif spec.gguf_file is not None:
        options["gguf_file"] = spec.gguf_file
    source = str(local_folder(spec)) if is_local(spec) else spec.path
    if is_local(spec):
        try:
            with without_bars():
                return factory.from_pretrained(source, **options)
        except LOADING_ERRORS as error:
            raise InputError(
                f"model {spec.name!r}: {source} cannot be loaded: {first_line(error)}"
            ) from error
    return _from_hub(factory, spec, options)


def _from_hub(factory: Any, spec: SubjectSpec, options: dict[str, Any]) -> Any:
    """Load from the Hub's cache on this machine, else over the network."""
    options = {**options, "revision": spec.revision}
    try:
        with without_bars():
            return factory.from_pretrained(spec.path, local_files_only=True, **options)
    except LOADING_ERRORS:
        pass
    try:
        return factory.from_pretrained(spec.path, **options)
    except LOADING_ERRORS as error:
        raise InputError(
            f"model {spec.name!r}: {spec.path!r} is no local folder and could not be had from the "
            "Hub; check the name and the network, or give a local folder"
        ) from error


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


def first_line(error: BaseException) -> str:
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
