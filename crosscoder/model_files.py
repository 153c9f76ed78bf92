"""Where a model lies, a folder or a repository of the Hub, and the hashes of its files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from crosscoder.adapters import CONFIG_NAME, adapter_files, base_of
from crosscoder.errors import InputError
from crosscoder.files import (
    DamagedFileError,
    json_sha256,
    read_json_object,
    sha256_file,
    unsealed,
    write_sealed_json,
)
from crosscoder.gguf_header import check_gguf
from crosscoder.model_checks import check_small_files, has_tokenizer, weight_files

_SMALL = ("*.json", "*.jinja", "*.model", "*.txt")
"""A model's config and tokenizer."""
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True)
class HubRepository:
    """A repository of the Hub at a revision; None is its main branch."""

    where: str
    """What it is to the user, as errors begin."""
    name: str
    revision: str | None = None


def is_hub_name(path: str) -> bool:
    """Whether a path that is not on this machine may be a Hub name, owner/name."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", path) is not None


def config_folder(repository: HubRepository, gguf_file: str | None = None) -> Path:
    """The snapshot with a model's config and tokenizer, or with its GGUF file.

    Its folder's name is the commit. InputError where it can be had neither from the cache of this
    machine nor from the Hub.
    """
    if gguf_file is not None:
        return cached(repository, gguf_file) or _fetch(repository, [gguf_file], gguf_file)
    folder = cached(repository, "config.json")
    if folder is not None and has_tokenizer(folder):
        return folder
    return _fetch(repository, _SMALL, "config.json")


def weights_folder(repository: HubRepository, gguf_file: str | None = None) -> Path:
    """The snapshot that holds a model's weights as well; InputError as for `config_folder`."""
    folder = config_folder(repository, gguf_file)
    if gguf_file is not None or _has_weights(repository, folder):
        return folder
    # One commit for all files: the branch may move between two requests.
    pinned = HubRepository(repository.where, repository.name, folder.name)
    for index, weights in (
        ("model.safetensors.index.json", "model.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model.bin"),
    ):
        folder = _fetch(pinned, [index, weights], "config.json")
        if names := weight_files(repository.where, folder):
            return _fetch(pinned, names, "config.json")
    return folder


def adapter_folder(repository: HubRepository) -> Path:
    """The snapshot with an adapter's config and weights; InputError as for `config_folder`."""
    folder = cached(repository, _ADAPTER[0])
    if folder is not None and any((folder / name).is_file() for name in _ADAPTER[1:]):
        return folder
    return _fetch(repository, _ADAPTER, _ADAPTER[0])


def cached(repository: HubRepository, file: str) -> Path | None:
    """The snapshot in the cache of this machine, if it holds the file.

    None as well where the Hub's library is not installed: it alone knows where its cache lies.
    """
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ModuleNotFoundError:
        return None
    try:
        found = try_to_load_from_cache(repository.name, file, revision=repository.revision)
    except HFValidationError:
        return None
    # The cache lays files out as snapshots/<commit>/<file>.
    return Path(found).parent if isinstance(found, str) and Path(found).exists() else None


def _has_weights(repository: HubRepository, folder: Path) -> bool:
    names = weight_files(repository.where, folder)
    return bool(names) and all((folder / name).is_file() for name in names)


def _fetch(repository: HubRepository, files: Sequence[str], needed: str) -> Path:
    """The snapshot after some files of the repository's top folder were fetched."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            repository.name,
            revision=repository.revision,
            allow_patterns=list(files),
            ignore_patterns=["*/*"],
        )
    # By place, not by type: the network fails under the names of several libraries.
    except Exception as error:
        raise _cannot_be_had(repository) from error
    if not (Path(folder) / needed).is_file():
        raise InputError(
            f"{repository.where}: {repository.name!r} on the Hub holds no {needed}; "
            "check the name and the revision"
        )
    return Path(folder)


def _cannot_be_had(repository: HubRepository) -> InputError:
    revision = f" at revision {repository.revision!r}" if repository.revision else ""
    return InputError(
        f"{repository.where}: {repository.name!r} is no local folder and could not be had from the "
        f"Hub{revision}; check the name and the network, or give a local folder"
    )


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
                "fix its path, or give a Hub name as owner/name"
            )
        return
    gguf = gguf_path(spec)
    if gguf is not None:
        if not gguf.is_file():
            raise InputError(f"model {spec.name!r}: {gguf} does not exist; fix its gguf_file")
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


_MODEL_SUFFIXES = {".safetensors", ".bin", ".json", ".jinja", ".model", ".txt"}
_THREADS = 4


class FileHashes:
    """SHA-256 of files, remembered in a JSON file by path, size and modification time."""

    def __init__(self, cache_file: Path | None) -> None:
        self._cache_file = cache_file
        self._known: dict[str, list[int | str]] = _read_cache(cache_file)

    def sha256(self, path: Path) -> str:
        """Hex SHA-256 of a file, read only where its size or time has changed."""
        return self.sha256_of([path])[0]

    def sha256_of(self, paths: list[Path]) -> list[str]:
        """Hex SHA-256 of several files, hashed side by side."""
        with ThreadPoolExecutor(_THREADS) as pool:
            rows = list(pool.map(self._row, paths))
        found = {str(p.resolve()): row for p, row in zip(paths, rows, strict=True)}
        if any(self._known.get(path) != row for path, row in found.items()):
            self._known.update(found)
            self._keep()
        return [str(row[2]) for row in rows]

    def _row(self, path: Path) -> list[int | str]:
        status = path.stat()
        row = self._known.get(str(path.resolve()))
        if row is not None and row[:2] == [status.st_size, status.st_mtime_ns]:
            return row
        return [status.st_size, status.st_mtime_ns, sha256_file(path)]

    def _keep(self) -> None:
        if self._cache_file is not None:
            write_sealed_json(self._cache_file, self._known, indent=1)


def fingerprint(spec: SubjectSpec, hashes: FileHashes) -> str:
    """SHA-256 over a subject model's weights, config, tokenizer, template and adapter.

    What lies on the Hub is known by its name and commit, whose content never changes.
    """
    return json_sha256(list(parts(spec, hashes).values()))


def parts(spec: SubjectSpec, hashes: FileHashes) -> dict[str, str]:
    """The content of the `model` and, where there is one, of its `adapter`, each in a word.

    InputError where one of them cannot be had.
    """
    spec = pinned(spec)
    found = {"model": _part(spec, hashes)}
    adapter = located_adapter(spec)
    if adapter is not None and is_adapter_local(spec):
        found["adapter"] = _folder_part(adapter, hashes, _adapter_files(adapter))
    elif adapter is not None:
        found["adapter"] = f"hub:{spec.adapter}@{spec.adapter_revision}"
    return found


def folder_sha256(folder: Path) -> str:
    """SHA-256 over a model folder's weights, config and tokenizer."""
    return _folder_part(folder, FileHashes(None), _files(folder)).rpartition(":")[2]


def _part(spec: SubjectSpec, hashes: FileHashes) -> str:
    if not is_local(spec):
        return f"hub:{spec.path}@{spec.revision}"
    gguf = gguf_path(spec)
    if gguf is not None:
        return f"gguf:{hashes.sha256(gguf)}"
    folder = local_folder(spec)
    return _folder_part(folder, hashes, _own_files(folder))


def _folder_part(folder: Path, hashes: FileHashes, files: list[Path]) -> str:
    """Hash over the names and contents of a model folder's files."""
    if not files:
        raise InputError(f"{folder}: holds no model files; give a model's folder")
    digest = hashlib.sha256()
    for path, file_hash in zip(files, hashes.sha256_of(files), strict=True):
        digest.update(f"{path.name}\0{file_hash}\n".encode())
    return f"folder:{digest.hexdigest()}"


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.suffix in _MODEL_SUFFIXES]


def _own_files(folder: Path) -> list[Path]:
    """The files of a model's folder; an adapter next to its weights is not put on top of them."""
    own = [path for path in _files(folder) if not path.name.startswith("adapter_")]
    return _without_pickles(own)


def _adapter_files(folder: Path) -> list[Path]:
    """The files of an adapter's folder, in which a whole model may lie as well."""
    files = _files(folder)
    kept = _without_pickles(files)
    return sorted({*kept, *(path for path in adapter_files(folder) if path in files)})


def _without_pickles(files: list[Path]) -> list[Path]:
    """The files without pickles, which are not read where there are safetensors."""
    has_safe = any(path.suffix == ".safetensors" for path in files)
    return [path for path in files if path.suffix != ".bin" or not has_safe]


def _read_cache(cache_file: Path | None) -> dict[str, list[int | str]]:
    """The cached hashes; empty if the file is missing or damaged, since it can be made again."""
    if cache_file is None or not cache_file.is_file():
        return {}
    remedy = "the files are hashed again"
    try:
        return unsealed(cache_file, read_json_object(cache_file, remedy), remedy)
    except DamagedFileError:
        return {}
