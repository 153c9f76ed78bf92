"""Where a subject model lies: a local folder, a GGUF file or a Hub name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from crosscoder.adapters import CONFIG_NAME, base_of
from crosscoder.errors import InputError
from crosscoder.gguf_header import check_gguf
from crosscoder.hub_files import (
    HubRepository,
    adapter_folder,
    config_folder,
    is_hub_name,
    weights_folder,
)
from crosscoder.model_checks import check_small_files, weight_files

DTYPES = ("float32", "bfloat16", "float16")


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
    adapter_revision: str | None = None
    """Hub revision of `adapter`."""
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
    else:
        _check_model_folder(spec, path)


def _check_model_folder(spec: SubjectSpec, folder: Path) -> None:
    """InputError where a folder holds no model, or an adapter alone."""
    where = f"model {spec.name!r}"
    has_config = (folder / "config.json").is_file()
    # Some trainers leave the base model's config in the folder of an adapter.
    if (folder / CONFIG_NAME).is_file() and not (has_config and weight_files(where, folder)):
        base = base_of(where, folder)
        raise InputError(
            f"{where}: {folder} is an adapter; give it as `adapter` and its base model"
            f"{f' ({base[:100]})' if base else ''} as `path`"
        )
    if not has_config:
        raise InputError(f"{where}: {folder} holds no config.json; give a model's folder")


def located(spec: SubjectSpec, weights: bool = True) -> Path:
    """The local folder of a model: its own, or the snapshot of its Hub repository.

    Without `weights` only its config and tokenizer need be there. The files are checked before any
    library reads them. InputError names the file that is missing, damaged or absurd.
    """
    check_location(spec)
    if is_local(spec):
        folder = local_folder(spec)
    else:
        fetch = weights_folder if weights else config_folder
        folder = fetch(_repository(spec), spec.gguf_file)
    gguf = gguf_name(spec)
    if gguf is not None:
        check_gguf(f"model {spec.name!r}", folder / gguf)
    else:
        check_small_files(f"model {spec.name!r}", folder)
    return folder


def gguf_name(spec: SubjectSpec) -> str | None:
    """The name of a model's GGUF file within its folder; None where its weights are no GGUF."""
    path = gguf_path(spec) if is_local(spec) else None
    return path.name if path is not None else spec.gguf_file


def located_adapter(spec: SubjectSpec) -> Path | None:
    """The local folder of a model's adapter, None without one; InputError as for `located`."""
    if spec.adapter is None:
        return None
    folder = Path(spec.adapter).expanduser()
    if is_adapter_local(spec):
        return folder
    where = f"model {spec.name!r}: adapter"
    if not is_hub_name(spec.adapter):
        raise InputError(
            f"{where} {folder} does not exist; fix its path, or give a Hub name as owner/name"
        )
    return adapter_folder(HubRepository(where, spec.adapter, spec.adapter_revision))


def pinned(spec: SubjectSpec) -> SubjectSpec:
    """The same model with the commits of what lies on the Hub in place of branches.

    A commit never changes its content; a branch may move between two reads.
    """
    changes: dict[str, str] = {}
    check_location(spec)
    if not is_local(spec):
        changes["revision"] = config_folder(_repository(spec), spec.gguf_file).name
    adapter = located_adapter(spec)
    if adapter is not None and not is_adapter_local(spec):
        changes["adapter_revision"] = adapter.name
    return replace(spec, **changes)


def is_adapter_local(spec: SubjectSpec) -> bool:
    """Whether a model's adapter is a folder of this machine."""
    return spec.adapter is not None and Path(spec.adapter).expanduser().exists()


def _repository(spec: SubjectSpec) -> HubRepository:
    return HubRepository(f"model {spec.name!r}", spec.path, spec.revision)
