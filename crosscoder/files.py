"""Files that appear whole or not at all, and the hashes by which they are known."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from crosscoder.errors import WorkError


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
