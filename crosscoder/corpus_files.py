"""Files that hold a corpus: JSON lines, JSON arrays, text, CSV, gzip, zstd, Parquet, Arrow.

Each is read as it comes, a row at a time; nothing is held but the row. A compressed file is read as
it unpacks, so what it unpacks to is bounded by the limit on a line.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from crosscoder.errors import InputError
from crosscoder.limits import (
    MAX_CORPUS_BYTES,
    MAX_CORPUS_FILES,
    MAX_LINE_BYTES,
    check_value,
    parse_json,
    parse_row,
    read_bytes,
)

_BOM = b"\xef\xbb\xbf"
_CHUNK = 2**20
_ZSTD_WINDOW = 2**27
"""Largest window of a zstd file, in bytes: what its own command line reads without being asked."""
_TABLE_ROWS = 512
"""Rows of a Parquet or Arrow table that are unpacked at a time."""
_KINDS = {
    ".jsonl": "json", ".ndjson": "json", ".json": "json", ".txt": "text", ".md": "text",
    ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".arrow": "arrow",
}  # fmt: skip
"""How files are read, by their ending; others as JSON."""
_PACKED = (".gz", ".zst")


@dataclass(frozen=True)
class CorpusRow:
    """One row of a corpus file, parsed when it is asked for."""

    name: str
    """What a document of it is called that has no id: `line-5`, `row-5`, a file's name."""
    where: str
    """File and line, for messages."""
    content: Any
    """The row, or the bytes of its JSON."""

    def value(self) -> Any:
        """The row: an object or a text. InputError, which begins with `where`, for no JSON."""
        if not isinstance(self.content, bytes):
            return self.content
        try:
            text = self.content.decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{self.where}: no valid UTF-8; save the file as UTF-8") from None
        try:
            return parse_row(text, self.where)
        except InputError as error:
            hint = "; put one object on a line" if "Extra data" in str(error) else ""
            raise InputError(f"{error}{hint}") from None


def corpus_files(path: Path, split: str | None = None) -> list[Path]:
    """The files that a corpus is read from, in order: the file itself, or those of a folder.

    Of a saved `datasets` folder these are the Arrow files of the split. InputError where there are
    none.
    """
    if path.is_file():
        if split is not None:
            raise InputError(f"{path}: a file has no splits; remove corpus.split")
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file; name the corpus in corpus.path")
    if (path / "dataset_dict.json").is_file():
        path = _split_folder(path, split)
    elif split is not None and not (path / "state.json").is_file():
        raise InputError(f"{path}: holds no saved dataset with splits; remove corpus.split")
    if (path / "state.json").is_file():
        return _arrow_files(path)
    found = sorted(
        itertools.islice(
            (each for each in path.rglob("*") if each.is_file() and _suffix(each) in _KINDS),
            MAX_CORPUS_FILES + 1,
        )
    )
    if len(found) > MAX_CORPUS_FILES:
        raise InputError(f"{path}: holds more than {MAX_CORPUS_FILES:,} files")
    if not found:
        raise InputError(
            f"{path}: the folder holds no saved dataset and no file that ends in "
            f"{', '.join(_KINDS)}"
        )
    return found


def kind_of(path: Path) -> str:
    """How a file is read: `json`, `text`, `csv`, `parquet` or `arrow`, with its packing."""
    packing = path.suffix.lower() if path.suffix.lower() in _PACKED else ""
    return _KINDS.get(_suffix(path), "json") + packing


def corpus_rows(
    path: Path, wanted: Collection[str] = (), split: str | None = None
) -> Iterator[CorpusRow]:
    """The rows of a file or folder, in order.

    `wanted` are the columns that are read of a Parquet or Arrow table. A text file gives one row
    per paragraph (paragraphs are set apart by blank lines); a text file of a folder gives one row.
    Raises InputError, which names the file and line, where a file cannot be read on.
    """
    files = corpus_files(path, split)
    for file in files:
        whole = path.is_dir()
        try:
            yield from _rows_of(file, wanted, file.relative_to(path) if whole else None)
        except (OSError, EOFError, zlib.error) as error:
            said = getattr(error, "strerror", None) or str(error) or "it is cut short"
            words = " ".join(said.split())
            raise InputError(f"{file}: cannot be read: {words}") from None


def _rows_of(file: Path, wanted: Collection[str], inside: Path | None) -> Iterator[CorpusRow]:
    """The rows of one file; `inside` is its path within the folder that is read."""
    kind = _KINDS.get(_suffix(file), "json")
    prefix = "" if inside is None else f"{inside.as_posix()}:"
    if kind in ("parquet", "arrow"):
        tables = _parquet_batches if kind == "parquet" else _arrow_batches
        yield from _table_rows(file, tables, wanted, prefix)
        return
    with _opened(file) as stream:
        if kind == "csv":
            yield from _csv_rows(file, stream, prefix)
        elif kind == "text" and not _is_json_text(stream):
            yield from _text_rows(file, stream, inside)
        elif _first_byte(stream) == b"[":
            yield from _array_rows(file, stream, prefix)
        else:
            for number, line in _lines(file, stream):
                if line.strip():
                    yield CorpusRow(f"{prefix}line-{number}", f"{file}:{number}", line)


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader[Any]]:
    """The unpacked bytes of a file."""
    with io.BufferedReader(io.FileIO(path), _CHUNK) as raw:
        packing = path.suffix.lower()
        if packing == ".gz":
            with gzip.open(raw) as unpacked:
                yield io.BufferedReader(_Limited(unpacked, path), _CHUNK)
        elif packing == ".zst":
            with _unzstd(raw, path) as stream:
                yield stream
        else:
            yield raw


@contextmanager
def _unzstd(raw: IO[bytes], path: Path) -> Iterator[io.BufferedReader]:
    import zstandard

    unpacking = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    try:
        with unpacking.stream_reader(raw, read_across_frames=True) as unpacked:
            yield io.BufferedReader(_Limited(unpacked, path), _CHUNK)
    except zstandard.ZstdError as error:
        raise InputError(f"{path}: is no whole zstd file ({error})") from None


class _Limited(io.RawIOBase):
    """A stream that refuses to go on beyond MAX_CORPUS_BYTES."""

    def __init__(self, stream: Any, path: Path) -> None:
        self._stream = stream
        self._path = path
        self._left = MAX_CORPUS_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._stream.read(len(buffer))
        self._left -= len(content)
        if self._left < 0:
            raise InputError(f"{self._path}: unpacks to more than {MAX_CORPUS_BYTES:,} bytes")
        buffer[: len(content)] = content
        return len(content)


def _lines(path: Path, stream: io.BufferedReader) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers counted from 1, without a byte-order mark."""
    # Binary lines end at newlines only: JSON strings may hold other separators (U+2028).
    for number in itertools.count(1):
        line = stream.readline(MAX_LINE_BYTES + 1)
        if not line:
            return
        if len(line) > MAX_LINE_BYTES:
            raise InputError(
                f"{path}:{number}: is longer than {MAX_LINE_BYTES:,} bytes; put one document on a "
                "line"
            )
        yield number, line.removeprefix(_BOM) if number == 1 else line


def _first_byte(stream: io.BufferedReader) -> bytes:
    """The first byte that is neither white space nor a byte-order mark; nothing is taken."""
    return stream.peek(_CHUNK).removeprefix(_BOM).lstrip()[:1]


def _is_json_text(stream: io.BufferedReader) -> bool:
    """Whether a text file's first line is an object of JSON: such files were always read so."""
    start = stream.peek(_CHUNK).removeprefix(_BOM).lstrip()
    if start[:1] != b"{":
        return False
    try:
        return isinstance(json.loads(start.split(b"\n", 1)[0]), dict)
    except (ValueError, RecursionError):
        return False


def _array_rows(path: Path, stream: io.BufferedReader, prefix: str) -> Iterator[CorpusRow]:
    """The items of a JSON array, one in memory at a time; they are numbered from 1."""
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    items = _ArrayItems(path, text)
    for number, value in enumerate(items, start=1):
        yield CorpusRow(f"{prefix}row-{number}", f"{path}: item {number}", value)


class _ArrayItems:
    """The items of a JSON array whose text is read piece by piece."""

    def __init__(self, path: Path, text: io.TextIOWrapper) -> None:
        self._path = path
        self._text = text
        self._buffer = ""
        self._decoder = json.JSONDecoder()

    def __iter__(self) -> Iterator[Any]:
        self._next_is("[")
        if self._skipped() == "]":
            return
        number = 0
        while True:
            number += 1
            yield self._item(number)
            mark = self._skipped()
            if mark == "]":
                return
            if mark != ",":
                raise InputError(
                    f"{self._path}: item {number + 1}: no valid JSON (expected a comma or the end "
                    "of the list)"
                )
            self._buffer = self._buffer[1:]
            self._skipped()

    def _next_is(self, mark: str) -> None:
        self._skipped()
        self._buffer = self._buffer.removeprefix(mark)

    def _skipped(self) -> str:
        """The next character that is no white space, still in the buffer."""
        self._buffer = self._buffer.lstrip()
        while not self._buffer and self._more(_CHUNK):
            self._buffer = self._buffer.lstrip()
        return self._buffer[:1]

    def _item(self, number: int) -> Any:
        where = f"{self._path}: item {number}"
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer)
            except RecursionError:
                raise InputError(f"{where}: JSON nested too deep") from None
            except ValueError as error:
                # Cut off in the middle, or wrong: only more text can tell.
                if self._more(max(_CHUNK, len(self._buffer))):
                    continue
                words = error.msg if isinstance(error, json.JSONDecodeError) else "a number"
                raise InputError(f"{where}: no valid JSON ({words})") from None
            if end == len(self._buffer) and self._more(_CHUNK):
                continue  # a number may go on
            self._buffer = self._buffer[end:]
            check_value(value, where, "JSON", any_number=True)
            return value

    def _more(self, size: int) -> bool:
        """Read on; InputError for an item beyond MAX_LINE_BYTES characters or no UTF-8."""
        if len(self._buffer) > MAX_LINE_BYTES:
            raise InputError(
                f"{self._path}: an item of the list is longer than {MAX_LINE_BYTES:,} characters, "
                "or is no valid JSON"
            )
        try:
            piece = self._text.read(size)
        except UnicodeDecodeError:
            raise InputError(f"{self._path}: no valid UTF-8; save the file as UTF-8") from None
        self._buffer += piece
        return bool(piece)


def _text_rows(path: Path, stream: io.BufferedReader, inside: Path | None) -> Iterator[CorpusRow]:
    """The paragraphs of a text file, or all of it where it is one of a folder's."""
    lines: list[bytes] = []
    start = size = 0
    for number, line in _lines(path, stream):
        if inside is None and not line.strip():
            if lines:
                yield _paragraph(path, start, lines)
            lines, size = [], 0
            continue
        start = start if lines else number
        lines.append(line)
        size += len(line)
        if size > MAX_LINE_BYTES:
            raise InputError(
                f"{path}:{start}: a document is longer than {MAX_LINE_BYTES:,} bytes; set "
                "paragraphs apart by blank lines"
            )
    if inside is not None:
        text = _decoded(b"".join(lines), f"{path}")
        yield CorpusRow(inside.as_posix(), str(path), {"text": text.strip()})
    elif lines:
        yield _paragraph(path, start, lines)


def _paragraph(path: Path, start: int, lines: list[bytes]) -> CorpusRow:
    where = f"{path}:{start}"
    return CorpusRow(f"line-{start}", where, {"text": _decoded(b"".join(lines), where).strip()})


def _decoded(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise InputError(f"{where}: no valid UTF-8; save the file as UTF-8") from None


def _csv_rows(path: Path, stream: io.BufferedReader, prefix: str) -> Iterator[CorpusRow]:
    """Rows of a table with a header, by column; empty cells are left out."""
    lines = (_decoded(line, f"{path}:{number}") for number, line in _lines(path, stream))
    head = next(lines, "")
    reader = csv.reader(
        itertools.chain([head], lines), delimiter=_delimiter(path, head), strict=True
    )
    try:
        header = next(reader, [])
        for number, cells in enumerate(reader, start=1):
            if len(cells) > len(header):
                raise InputError(
                    f"{path}:{reader.line_num}: {len(cells)} cells under a header of {len(header)}"
                )
            values = {name: cell for name, cell in zip(header, cells, strict=False) if cell}
            if values:
                yield CorpusRow(f"{prefix}row-{number}", f"{path}:{reader.line_num}", values)
    except csv.Error as error:
        raise InputError(
            f"{path}:{reader.line_num}: no valid CSV ({error}); save it as JSON lines"
        ) from None


def _delimiter(path: Path, head: str) -> str:
    """Tab for .tsv, else whichever of the usual ones the header has most."""
    if _suffix(path) == ".tsv":
        return "\t"
    return max(",;\t|", key=head.count)


Batches = Callable[[Path, Collection[str]], Iterator[Any]]


def _table_rows(
    path: Path, batches: Batches, wanted: Collection[str], prefix: str
) -> Iterator[CorpusRow]:
    import pyarrow

    numbers = itertools.count(1)
    try:
        for batch in batches(path, wanted):
            for value in batch.to_pylist():
                number = next(numbers)
                yield CorpusRow(f"{prefix}row-{number}", f"{path}: row {number}", value)
    except (pyarrow.ArrowException, OSError) as error:
        words = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: cannot be read as {_suffix(path)[1:]} ({words})") from None


def _parquet_batches(path: Path, wanted: Collection[str]) -> Iterator[Any]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        columns = _read_columns(path, file.schema_arrow.names, wanted)
        yield from file.iter_batches(batch_size=_TABLE_ROWS, columns=columns)


def _arrow_batches(path: Path, wanted: Collection[str]) -> Iterator[Any]:
    """A `datasets` folder holds Arrow streams; Feather files are of Arrow's other form."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as mapped:
        try:
            reader = pyarrow.ipc.open_stream(mapped)
            batches: Iterator[Any] = iter(reader)
        except pyarrow.ArrowInvalid:
            reader = pyarrow.ipc.open_file(mapped)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        columns = _read_columns(path, reader.schema.names, wanted)
        for batch in batches:
            for start in range(0, batch.num_rows, _TABLE_ROWS):
                yield batch.slice(start, _TABLE_ROWS).select(columns)


def _read_columns(path: Path, names: list[str], wanted: Collection[str]) -> list[str]:
    columns = [name for name in names if not wanted or name in wanted]
    if not columns:
        shown = ", ".join(map(repr, names[:20]))
        raise InputError(
            f"{path}: no column of a known format; columns found: {shown}; name your own: "
            'corpus.columns = { text = "..." }'
        )
    return columns


def _split_folder(path: Path, split: str | None) -> Path:
    """The folder of one split of a saved DatasetDict: the one asked for, the only one, or train."""
    listed = parse_json(read_bytes(path / "dataset_dict.json"), path / "dataset_dict.json")
    names = listed.get("splits") if isinstance(listed, dict) else None
    if not isinstance(names, list) or not all(isinstance(n, str) and _is_plain(n) for n in names):
        raise InputError(f"{path}: dataset_dict.json names no splits")
    chosen = split or (names[0] if len(names) == 1 else "train")
    if chosen not in names:
        raise InputError(f"{path}: has no split {chosen!r}; set corpus.split: {', '.join(names)}")
    return path / chosen


def _arrow_files(path: Path) -> list[Path]:
    """The Arrow files of a saved Dataset, as its state.json lists them."""
    state = parse_json(read_bytes(path / "state.json"), path / "state.json")
    rows = state.get("_data_files") if isinstance(state, dict) else None
    names = [row.get("filename") if isinstance(row, dict) else None for row in rows or ()]
    if not names or not all(isinstance(name, str) and _is_plain(name) for name in names):
        raise InputError(f"{path}: state.json names no Arrow files of this folder")
    files = [path / str(name) for name in names]
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise InputError(f"{missing}: no such file; state.json names it")
    return files


def _is_plain(name: str) -> bool:
    """Whether a name stays within its folder."""
    return bool(name) and Path(name).name == name and name != ".."


def _suffix(path: Path) -> str:
    """The ending of a file's name that says what it holds: `.jsonl` of `a.jsonl.gz`."""
    packed = path.suffix.lower() in _PACKED
    return Path(path.stem).suffix.lower() if packed else path.suffix.lower()
