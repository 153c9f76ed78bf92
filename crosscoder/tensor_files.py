"""Safetensors files that appear whole or not at all; sealed ones hold the hash of their content.

Apart from crosscoder/files.py, which does without torch.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from crosscoder.files import SEAL, DamagedFileError, canonical_json, whole_file, write_failure

TENSOR_FILE_ERRORS = (OSError, SafetensorError)
"""What reading or writing a safetensors file may raise."""
_OS_ERROR_NUMBER = re.compile(r"os error (\d+)")


def write_tensors(
    path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file whole.

    Raises WorkError where the disk is full or the file system refuses.
    """
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata=metadata)
        except SafetensorError as error:
            match = _OS_ERROR_NUMBER.search(str(error))
            number = int(match.group(1)) if match else None
            raise write_failure(path, number, str(error)) from error


def write_sealed_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file whole, with the hash of tensors and metadata in its header.

    WorkError as `write_tensors`.
    """
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_tensors(path, held, {**metadata, SEAL: _digest(held, metadata)})


def read_sealed_tensors(path: Path, remedy: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a file of `write_sealed_tensors`; DamagedFileError where changed."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except TENSOR_FILE_ERRORS:
        raise DamagedFileError(path, remedy) from None
    if metadata.pop(SEAL, None) != _digest(tensors, metadata):
        raise DamagedFileError(path, remedy)
    return tensors, metadata


def _digest(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 over names, types, shapes and bytes of the tensors, and over the metadata."""
    digest = hashlib.sha256(canonical_json(dict(metadata)).encode("utf-8"))
    for name in sorted(tensors):
        tensor = tensors[name]
        head = [name, str(tensor.dtype), list(tensor.shape)]
        digest.update(canonical_json(head).encode("utf-8"))
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
