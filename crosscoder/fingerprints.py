"""Hashes of model files, computed once and remembered by size and time."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from crosscoder.errors import InputError
from crosscoder.files import canonical_json, sha256_file, sha256_text, write_text
from crosscoder.limits import parse_json, read_bytes
from crosscoder.subject_files import (
    SubjectSpec,
    check_location,
    from_pretrained,
    gguf_path,
    is_local,
    local_folder,
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
            write_text(self._cache_file, json.dumps(self._known, indent=1, sort_keys=True))


def fingerprint(spec: SubjectSpec, hashes: FileHashes) -> str:
    """SHA-256 over a subject model's weights, config, tokenizer, template and adapter.

    A Hub model is known by its name and commit, which never change their content.
    """
    check_location(spec)
    parts = [_part(spec, hashes)]
    if spec.adapter is not None:
        folder = Path(spec.adapter).expanduser()
        parts.append(_folder_part(folder, hashes) if folder.exists() else f"hub:{spec.adapter}")
    return sha256_text(canonical_json(parts))


def _part(spec: SubjectSpec, hashes: FileHashes) -> str:
    if not is_local(spec):
        return f"hub:{spec.path}@{_hub_commit(spec)}"
    gguf = gguf_path(spec)
    if gguf is not None:
        return f"gguf:{hashes.sha256(gguf)}"
    return _folder_part(local_folder(spec), hashes)


def _folder_part(folder: Path, hashes: FileHashes) -> str:
    """Hash over the names and contents of a model folder's files."""
    files = [path for path in sorted(folder.iterdir()) if path.suffix in _MODEL_SUFFIXES]
    if any(path.suffix == ".safetensors" for path in files):
        files = [path for path in files if path.suffix != ".bin"]
    if not files:
        raise InputError(f"{folder}: holds no model files; give a model's folder")
    digest = hashlib.sha256()
    for path, file_hash in zip(files, hashes.sha256_of(files), strict=True):
        digest.update(f"{path.name}\0{file_hash}\n".encode())
    return f"folder:{digest.hexdigest()}"


def _hub_commit(spec: SubjectSpec) -> str:
    """The commit whose files this machine has; fetches the config where it has none."""
    from huggingface_hub import hf_hub_download
    from transformers import AutoConfig

    from_pretrained(AutoConfig, spec)
    path = hf_hub_download(
        spec.path,
        spec.gguf_file or "config.json",
        revision=spec.revision,
        local_files_only=True,
    )
    # The cache lays files out as snapshots/<commit>/<file>.
    return Path(path).parent.name


def _read_cache(cache_file: Path | None) -> dict[str, list[int | str]]:
    """What is remembered; nothing where the file is missing or damaged, as it can be made anew."""
    if cache_file is None or not cache_file.is_file():
        return {}
    try:
        known = parse_json(read_bytes(cache_file), cache_file)
    except InputError:
        return {}
    return known if isinstance(known, dict) else {}
