"""What is accepted from files and servers that others wrote: sizes, depth, digits, time.

Every reader of a foreign file or body goes through this module, so that each limit has one
definition and every refusal is one line that names the file or body and the limit.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import tomllib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from crosscoder.errors import InputError

MAX_DEPTH = 64
"""Nested lists and objects in JSON and YAML."""

MAX_ELEMENTS = 20_000_000
"""Values in one JSON or YAML document; a batch of 1,024 latents with their texts has millions."""

MAX_INTEGER = 2**63 - 1
"""Largest magnitude of an integer in foreign data: what both databases and torch can hold."""

MAX_ALIASES = 100
"""Uses of anchors in one YAML document; a few of them can stand for millions of values."""

MAX_TEXT_BYTES = 256 * 2**20
"""Bytes of one text file that is read whole."""

MAX_CONFIG_BYTES = 2**20
"""Bytes of one YAML or TOML file: what people write by hand, read by slow and thorough parsers."""

MAX_KEY_PARTS = 1_000
"""Dots in one line of TOML, whose parser copies all parts of a key for every further one."""

MAX_LINES = 5_000_000
"""Lines of one CSV or JSONL file."""

MAX_UNPACKED_BYTES = 256 * 2**20
"""Bytes that one compressed file may unpack to."""

MAX_RENDERED_CHARACTERS = 16 * 2**20
"""Characters that a chat template may make of one document."""

MAX_RENDER_SECONDS = 10.0
"""Seconds of processor time that a chat template may take for one document."""

MAX_RENDER_BYTES = 2**30
"""Address space of the process in which a chat template runs."""

MAX_LINE_BYTES = 64 * 2**20
"""Bytes of one line of a JSON lines file."""

MAX_CORPUS_BYTES = 2**40
"""Bytes that a compressed corpus may unpack to; it is read as it unpacks, line by line."""

MAX_CORPUS_FILES = 100_000
"""Files of a corpus that is a folder."""

MAX_YAML_ELEMENTS = 50_000
"""Values in one YAML document, each anchor counted as often as it is used."""

MAX_MODEL_CONFIG_BYTES = 16 * 2**20
"""Bytes of a model's or adapter's config; a long list of classes makes it one or two million."""

MAX_HEADER_BYTES = 100 * 2**20
"""Bytes of a safetensors header, as that format's own reader has it."""

MAX_LAYERS = 1024
"""Decoder blocks of a model: each is built before any weight is read."""

MAX_EXPERTS = 4096
"""Experts of one decoder block."""

MAX_EXPERT_BLOCKS = 2**17
"""Experts of all decoder blocks together."""

MAX_MODEL_SIZE = 2**27
"""Any other size in a model's config: widths, heads, vocabulary, positions."""

MAX_WEIGHTS_PER_BYTE = 4
"""Weights that a model's config may ask for per byte of its files: 2-bit formats pack that many."""

MAX_BUFFER_ELEMENTS = 2**30
"""Elements of the masks and position tables that a model makes for itself."""

MAX_ADAPTER_RANK = 2**14
"""Ranks and other sizes in an adapter's config."""

MAX_PATTERN_SECONDS = 10.0
"""Seconds that the regular expressions of an adapter may take on the names of all modules."""

MAX_ANSWER_BYTES = 4 * 2**20
"""Bytes of a judge server's answer."""

MAX_VECTORS_BYTES = 64 * 2**20
"""Bytes of an embedding server's answer: 64 vectors of 16,384 numbers, written as text."""

MAX_CONNECTIONS = 2_000
"""Connections that one process of a server holds, where its limit of open files allows them."""

MAX_REQUEST_HEADER_BYTES = 32 * 2**10
"""Bytes of the request line and all headers of a request."""

MAX_HEADER_SECONDS = 10.0
"""Seconds from the connection, or from the end of the last answer's rest, to a whole header."""

MAX_BODY_SECONDS = 20.0
"""Seconds that a client may take to send a whole body."""

MAX_ANSWER_PAUSE_SECONDS = 30.0
"""Seconds that a client may leave its answer unread."""

_CHUNK_BYTES = 2**20
_STRING = re.compile(r'"[^"\\]*(?:\\.?[^"\\]*+)*+(?:"|\Z)', re.DOTALL)
_LONG_NUMBER = re.compile(r"[-+0-9][0-9a-f_:.]{400,}\Z", re.IGNORECASE)
"""Also numbers to the base of 60, `1:59:59`, of which YAML's reader makes powers without end."""
_EVENT_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The parser written in C where there is one; it gives the same events, many times as fast."""


def parse_json(text: str | bytes, where: object, any_number: bool = False) -> Any:
    """The value of a JSON text from outside.

    Raises InputError, which begins with `where`, for text that is no JSON, for the constants NaN
    and Infinity and numbers beyond float64, for integers beyond 64 bits, and for what is nested
    deeper than MAX_DEPTH or holds more than MAX_ELEMENTS values. With `any_number` the constants
    and longer integers pass: the configs of published models hold them.
    """
    if isinstance(text, bytes):
        text = decoded(text, where)
    _check_count(text, where)
    try:
        value = json.loads(text, parse_constant=None if any_number else _refuse_constant)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: no valid JSON ({error.msg}, {_place(error)})") from None
    except RecursionError:
        raise InputError(f"{where}: {_too_deep('JSON')}") from None
    except ValueError as error:
        # Python refuses integers of thousands of digits with a ValueError of its own.
        reason = error.args[0] if isinstance(error, _ConstantError) else "an integer is too long"
        raise InputError(f"{where}: no valid JSON ({reason})") from None
    check_value(value, where, "JSON", any_number)
    return value


def parse_row(text: str, where: object) -> Any:
    """The value of one row of a corpus: as `parse_json` with `any_number`, without a look at depth.

    A reader takes a few keys of the row by their types, so what lies deeper is never walked.
    """
    _check_count(text, where)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: no valid JSON ({error.msg}, {_place(error)})") from None
    except RecursionError:
        raise InputError(f"{where}: {_too_deep('JSON')}") from None
    except ValueError:
        raise InputError(f"{where}: no valid JSON (an integer is too long)") from None


def _check_count(text: str, where: object) -> None:
    """Refuse a JSON text of too many values before it is built: each takes far more memory."""
    if len(text) <= MAX_ELEMENTS:
        return
    if _marks(text) > MAX_ELEMENTS and _marks(_STRING.sub("", text)) > MAX_ELEMENTS:
        raise InputError(f"{where}: {_too_many('JSON')}")


def _marks(text: str) -> int:
    """What begins a value: no fewer than there are values, but for the first."""
    return text.count(",") + text.count("[") + text.count("{")


def check_value(value: Any, where: object, kind: str, any_number: bool = False) -> None:
    """Refuse parsed data that is too deep, too large or holds numbers that nothing can store."""
    waiting: list[tuple[Any, int]] = [((value,), -1)]
    seen = 0
    while waiting:
        items, depth = waiting.pop()
        seen += len(items)
        if seen > MAX_ELEMENTS:
            raise InputError(f"{where}: {_too_many(kind)}")
        for item in items.values() if isinstance(items, dict) else items:
            if isinstance(item, str) or (any_number and isinstance(item, int | float)):
                continue
            if isinstance(item, float):
                if not math.isfinite(item):
                    raise InputError(f"{where}: {kind} with a number that is not finite")
            elif isinstance(item, int):
                if abs(item) > MAX_INTEGER:
                    raise InputError(f"{where}: {kind} with an integer beyond 64 bits")
            elif isinstance(item, dict | list):
                if depth + 1 >= MAX_DEPTH:
                    raise InputError(f"{where}: {_too_deep(kind)}")
                waiting.append((item, depth + 1))


def load_yaml(text: str, where: object, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """The value of a YAML text from outside, read by a safe loader.

    Raises InputError, which begins with `where`, as `parse_json` does, and for more than
    MAX_ALIASES uses of anchors or more than MAX_CONFIG_BYTES characters.
    """
    if len(text) > MAX_CONFIG_BYTES:
        raise InputError(f"{where}: is larger than {MAX_CONFIG_BYTES:,} bytes")
    try:
        _check_events(text, where)
        value = yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        raise InputError(f"{where}: no valid YAML: {_yaml_problem(error)}") from None
    except InputError:
        raise
    except Exception:
        # What the parser's own constructors make of hostile values has no one type.
        raise InputError(f"{where}: no valid YAML: a value cannot be read") from None
    check_value(value, where, "YAML")
    return value


def _check_events(text: str, where: object) -> None:
    """Walk the parser's events, which build nothing, before anything is built.

    An anchor counts as often as it is used: aliases of aliases and merged mappings multiply.
    """
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    total = aliases = 0
    for event in yaml.parse(text, Loader=_EVENT_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            if len(open_nodes) >= MAX_DEPTH:
                raise InputError(f"{where}: {_too_deep('YAML')}")
            open_nodes.append((event.anchor, total))
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = total - before
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
            total += sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if _LONG_NUMBER.match(event.value):
                raise InputError(f"{where}: no valid YAML: a number is too long")
        if aliases > MAX_ALIASES:
            raise InputError(f"{where}: YAML with more than {MAX_ALIASES} uses of anchors")
        if total > MAX_YAML_ELEMENTS:
            raise InputError(f"{where}: {_too_many('YAML', MAX_YAML_ELEMENTS)}")


def parse_toml(text: str, where: object) -> dict[str, Any]:
    """The tables of a TOML text; InputError, which begins with `where`, as in `parse_json`."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.count(".") > MAX_KEY_PARTS:
            raise InputError(
                f"{where}: line {number}: more than {MAX_KEY_PARTS:,} dots in one line"
            )
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where}: no valid TOML: {error}") from None
    except RecursionError:
        raise InputError(f"{where}: {_too_deep('TOML')}") from None
    except ValueError:
        raise InputError(f"{where}: no valid TOML: a number is too long") from None
    check_value(value, where, "TOML")
    return value


def csv_rows(
    text: str, where: object, delimiter: str = ",", strict: bool = True
) -> Iterator[tuple[int, list[str]]]:
    """Rows of a CSV text with their numbers, the first being row 1; InputError names the line.

    Raises InputError for quotes that do not match, for a NUL byte, as UTF-16 has them, for a cell
    beyond the `csv` module's own limit (131,072 characters) and for more than MAX_LINES lines.
    """
    check_lines(text, where)
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{where}: line {line}: holds a NUL byte; save the file as UTF-8")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=strict)
    try:
        yield from enumerate(reader, start=1)
    except csv.Error as error:
        raise InputError(f"{where}: line {reader.line_num}: no valid CSV ({error})") from None


def check_lines(text: str, where: object) -> None:
    """InputError for a text of more than MAX_LINES lines."""
    if text.count("\n") > MAX_LINES:
        raise InputError(f"{where}: has more than {MAX_LINES:,} lines")


def lines_of(text: str, where: object) -> Iterator[tuple[int, str]]:
    """Lines that are not blank with their numbers, the first being 1; as `check_lines` raises."""
    check_lines(text, where)
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line


def whole_number(text: str, largest: int = MAX_INTEGER) -> int | None:
    """The number that ASCII digits write; None for anything else and beyond `largest`.

    Python itself refuses thousands of digits with an error of its own.
    """
    if not (text.isascii() and text.isdigit()):
        return None
    digits = text.lstrip("0") or "0"
    if len(digits) > len(str(largest)):
        return None
    return int(digits) if int(digits) <= largest else None


def read_text(path: Path, largest: int = MAX_TEXT_BYTES) -> str:
    """The UTF-8 text of a file without a byte-order mark; InputError names the file."""
    return decoded(read_bytes(path, largest), path)


def decoded(content: bytes, where: object) -> str:
    """UTF-8 text without a byte-order mark; InputError begins with `where`."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: is not UTF-8 (byte {error.start}); save it as UTF-8") from None


def read_bytes(path: Path, largest: int = MAX_TEXT_BYTES) -> bytes:
    """The content of a file; InputError where it cannot be read or is larger than `largest`."""
    try:
        with path.open("rb") as file:
            content = file.read(largest + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; name a file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > largest:
        raise InputError(f"{path}: is larger than {largest:,} bytes")
    return content


def gunzip(content: bytes, where: object, largest: int = MAX_UNPACKED_BYTES) -> bytes:
    """What a gzip file holds, all members of it; InputError where it is broken or too large."""
    parts: list[bytes] = []
    total = 0
    while content:
        member = zlib.decompressobj(wbits=31)
        try:
            while not member.eof:
                part = member.decompress(content, _CHUNK_BYTES)
                content = member.unconsumed_tail
                if not part and not content and not member.eof:
                    raise zlib.error
                total += len(part)
                if total > largest:
                    raise InputError(f"{where}: unpacks to more than {largest:,} bytes")
                parts.append(part)
        except zlib.error:
            raise InputError(f"{where}: is no whole gzip file") from None
        content = member.unused_data.lstrip(b"\0")
    return b"".join(parts)


def _place(error: json.JSONDecodeError) -> str:
    column = f"column {error.colno}"
    return f"line {error.lineno} {column}" if "\n" in error.doc else column


class _ConstantError(ValueError):
    """JSON holds a constant that the standard does not know."""


def _refuse_constant(name: str) -> Any:
    raise _ConstantError(f"{name} is no JSON number")


def _too_deep(kind: str) -> str:
    return f"{kind} nested deeper than {MAX_DEPTH} levels"


def _too_many(kind: str, most: int = MAX_ELEMENTS) -> str:
    return f"{kind} with more than {most:,} values"


def _yaml_problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        problem = " ".join(str(error.problem).split())
        return f"line {error.problem_mark.line + 1}: {problem}"
    return " ".join(str(error).split())
