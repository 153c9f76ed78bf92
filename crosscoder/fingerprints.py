"""Hashes of model files, computed once and remembered by size and time."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from crosscoder.adapters import adapter_files
from crosscoder.errors import InputError
from crosscoder.files import json_sha256, sha256_file
from crosscoder.integrity import (
    DamagedFileError,
    read_json_object,
    unsealed,
    write_sealed_json,
)
from crosscoder.subject_files import (
    SubjectSpec,
    gguf_path,
    is_adapter_local,
    is_local,
    local_folder,
    located_adapter,
    pinned,
)

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
    """What is remembered; nothing where the file is missing or damaged, as it can be made anew."""
    if cache_file is None or not cache_file.is_file():
        return {}
    remedy = "the files are hashed again"
    try:
        return unsealed(cache_file, read_json_object(cache_file, remedy), remedy)
    except DamagedFileError:
        return {}
