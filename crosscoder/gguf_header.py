"""The header of a GGUF file, read to see whether the file is whole and its sizes are sane."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

from crosscoder import limits
from crosscoder.errors import InputError
from crosscoder.model_checks import check_config, require_content

_MAGIC = b"GGUF"
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip
"""Layout of a value by the number of its type."""
_STRING, _ARRAY = 8, 9
_DEFAULT_ALIGNMENT = 32
_MAX_DIMENSIONS = 8


def check_gguf(where: str, path: Path) -> None:
    """InputError, which begins with `where`, where a GGUF file is not whole or asks for absurd
    sizes.

    The format is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
    """
    require_content(where, path)
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            values, end = _read(_Reader(file, size))
    except (EOFError, struct.error, ValueError, KeyError):
        raise _damage_error(where, path, "its header is cut off or damaged") from None
    if end > size:
        raise _damage_error(where, path, f"it is cut off at {size:,} of {end:,} bytes")
    check_config(where, path, values)


class _Reader:
    """Reads the parts of a header; EOFError where the file ends first or a part is absurd."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def bytes(self, count: int) -> bytes:
        if count > self._size - self._file.tell():
            raise EOFError
        return self._file.read(count)

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.bytes(struct.calcsize(layout)))[0]

    def count(self, largest: int = limits.MAX_ELEMENTS) -> int:
        count: int = self.number("<Q")
        if count > largest:
            raise EOFError
        return count

    def text(self) -> str:
        return self.bytes(self.count(self._size)).decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        """A value; None for an array, which is read over."""
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.number(_SCALARS[kind])
        inner, count = self.number("<I"), self.count()
        if inner in _SCALARS:
            self.bytes(count * struct.calcsize(_SCALARS[inner]))
        elif inner == _STRING:
            for _ in range(count):
                self.bytes(self.count(self._size))
        else:
            raise ValueError("arrays of arrays are not in use")
        return None

    @property
    def position(self) -> int:
        return self._file.tell()


def _read(reader: _Reader) -> tuple[dict[str, Any], int]:
    """The header's values by the last part of their names, and where the last tensor ends."""
    if reader.bytes(4) != _MAGIC:
        raise ValueError("no GGUF file")
    reader.number("<I")
    n_tensors, n_values = reader.count(), reader.count()
    values: dict[str, Any] = {}
    for _ in range(n_values):
        name = reader.text()
        values[name.rpartition(".")[2]] = reader.value(reader.number("<I"))
    ends = [_tensor_end(reader) for _ in range(n_tensors)]
    alignment = values.get("alignment") or _DEFAULT_ALIGNMENT
    start = -(-reader.position // alignment) * alignment
    return values, start + max(ends, default=0)


def _tensor_end(reader: _Reader) -> int:
    """Where a tensor's data ends, counted from the start of all data."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    reader.text()
    n_dimensions = reader.number("<I")
    if n_dimensions > _MAX_DIMENSIONS:
        raise ValueError("too many dimensions")
    shape = [reader.number("<Q") for _ in range(n_dimensions)]
    block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(reader.number("<I"))]
    offset: int = reader.number("<Q")
    n_bytes: int = math.prod(shape) // block * block_bytes
    return offset + n_bytes


def _damage_error(where: str, path: Path, what: str) -> InputError:
    return InputError(f"{where}: {path} is damaged: {what}; fetch it again")
