"""Files that appear whole or not at all, and the hashes by which they are known."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from crosscoder.errors import WorkError

if TYPE_CHECKING:
    import torch

TENSOR_FILE_ERRORS = (OSError, SafetensorError)
"""What reading or writing a safetensors file may raise."""
_OS_ERROR_NUMBER = re.compile(r"os error (\d+)")


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """Hex SHA-256 of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, so that equal values give equal hashes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole: a reader sees the old file or the new one, never a part.

    Raises WorkError where the disk is full or the file system refuses.
    """
    with _whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(text)


def write_tensors(
    path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file whole.

    Raises WorkError where the disk is full or the file system refuses.
    """
    # Hashes and text files are wanted long before torch is: it takes seconds to import.
    from safetensors.torch import save_file

    with _whole_file(path) as temporary:
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, temporary, metadata=metadata)


@contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place once it is on the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    except TENSOR_FILE_ERRORS as error:
        raise _write_failure(path, error) from error
    finally:
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


def _write_failure(path: Path, error: OSError | SafetensorError) -> WorkError:
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (match := _OS_ERROR_NUMBER.search(str(error))):
        number = int(match.group(1))
    if number in (errno.ENOSPC, errno.EDQUOT):
        return WorkError(
            f"{path}: the disk is full; free some space and run again, "
            "what was written whole is kept"
        )
    reason = os.strerror(number) if number is not None else str(error)
    return WorkError(f"{path}: cannot be written: {reason}")
