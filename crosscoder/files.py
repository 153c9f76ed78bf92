"""Files that appear whole or not at all, and the hashes that say whether they are still so."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from crosscoder.errors import InputError, WorkError
from crosscoder.limits import parse_json, read_bytes


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """Hex SHA-256 of a text's UTF-8 bytes; half a surrogate pair has three, as any character."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, so that equal values give equal hashes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def json_sha256(value: Any) -> str:
    """Hash of a JSON value, the same for equal values."""
    return sha256_text(canonical_json(value))


def write_text(path: Path, text: str) -> None:
    """Write a text file whole: a reader sees the old file or the new one, never a part.

    Raises WorkError where the disk is full or the file system refuses.
    """
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(text)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path next to `path` that takes its place once it is on the disk.

    Raises WorkError where the disk is full or the file system refuses.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    except OSError as error:
        raise write_failure(path, error.errno, str(error)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Have the system put a file or a folder's entries on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot flush a folder; its entries are theirs to keep.
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def write_failure(path: Path, number: int | None, words: str) -> WorkError:
    """Why a file could not be written, by the system's error number; `words` where it has none."""
    if number in (errno.ENOSPC, errno.EDQUOT):
        return WorkError(
            f"{path}: the disk is full; free some space and run again, "
            "what was written whole is kept"
        )
    reason = os.strerror(number) if number is not None else words
    return WorkError(f"{path}: cannot be written: {reason}")


SEAL = "sha256"
SET_ASIDE = ".damaged"
CHANGED = "its content is not what was written"


class DamagedFileError(InputError):
    """A file is missing, or is not what was written; the message names it and the remedy."""

    def __init__(self, path: Path, remedy: str, reason: str = CHANGED) -> None:
        what = f"damaged: {reason}" if path.exists() else "missing"
        super().__init__(f"{path}: {what}; {remedy}")
        self.path = path
        self.remedy = remedy


def set_aside(error: DamagedFileError) -> DamagedFileError:
    """Give a damaged file another name, so that whoever makes it finds that it is not there.

    Returns the error in the words that say so; the same error where the folder is read-only.
    """
    path = error.path
    aside = path.with_name(path.name + SET_ASIDE)
    try:
        path.rename(aside)
    except OSError:
        return error
    moved = DamagedFileError(path, error.remedy)
    moved.args = (f"{path}: damaged: {CHANGED}; set aside as {aside.name}, {error.remedy}",)
    return moved


def write_sealed_json(path: Path, content: Mapping[str, Any], indent: int | None = None) -> None:
    """Write a JSON object whole, with the hash of its content; WorkError as `write_text`.

    Numbers that are not finite are written as text, which pydantic reads as numbers again.
    """
    content = _as_json(dict(content))
    sealed = {**content, SEAL: _seal_of(content)}
    write_text(path, json.dumps(sealed, indent=indent, ensure_ascii=False) + "\n")


def read_json_object(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in a file, its seal not looked at yet; DamagedFileError where it is none."""
    try:
        content = parse_json(read_bytes(path), path)
    except InputError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise DamagedFileError(path, remedy, reason) from None
    if not isinstance(content, dict):
        raise DamagedFileError(path, remedy)
    return content


def unsealed(path: Path, content: Mapping[str, Any], remedy: str) -> dict[str, Any]:
    """The content of a sealed JSON object without its seal; DamagedFileError where they differ."""
    bare = {name: value for name, value in content.items() if name != SEAL}
    if content.get(SEAL) != _seal_of(bare):
        raise DamagedFileError(path, remedy)
    return bare


def _as_json(value: Any) -> Any:
    """The value without what JSON has no number for: NaN and Infinity as text."""
    if isinstance(value, dict):
        return {name: _as_json(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _seal_of(content: Mapping[str, Any]) -> str:
    return sha256_text(canonical_json(dict(content)))


class VerifiedFiles:
    """Hashes each file once, in a thread next to whatever reads it.

    A file that was written again since is hashed again. One object serves all stores that a
    process opens through it.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="verify")
        self._hashes: dict[tuple[Path, int, int], Future[str]] = {}

    def begin(self, path: Path) -> None:
        """Have a file hashed, unless it is or was already; a missing one is left to `agrees`."""
        try:
            self._hash_of(path)
        except OSError:
            return

    def agrees(self, path: Path, sha256: str) -> bool:
        """Whether the file is there with this SHA-256; waits for the thread.

        OSError where it is there and the system cannot read it: that says nothing of its content.
        """
        try:
            return self._hash_of(path).result() == sha256
        except FileNotFoundError:
            return False

    def _hash_of(self, path: Path) -> Future[str]:
        status = path.stat()
        key = (path, status.st_size, status.st_mtime_ns)
        if key not in self._hashes:
            self._hashes[key] = self._pool.submit(sha256_file, path)
        return self._hashes[key]
