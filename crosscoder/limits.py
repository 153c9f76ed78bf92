"""What is accepted from files and servers that others wrote: sizes, depth, digits, time.

Every reader of a foreign file or body goes through this module, so that each limit has one
definition and every refusal is one line that names the file or body and the limit.
"""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import yaml

from crosscoder.errors import InputError

MAX_DEPTH = 64
"""Nested lists and objects in JSON and YAML."""

MAX_ELEMENTS = 5_000_000
"""Values in one JSON or YAML document."""

MAX_INTEGER = 2**63 - 1
"""Largest magnitude of an integer in foreign data: what both databases and torch can hold."""

MAX_ALIASES = 100
"""Uses of anchors in one YAML document; a few of them can stand for millions of values."""

MAX_TEXT_BYTES = 256 * 2**20
"""Bytes of one text file that is read whole."""

MAX_UNPACKED_BYTES = 512 * 2**20
"""Bytes that one compressed file may unpack to."""

MAX_RENDERED_CHARACTERS = 16 * 2**20
"""Characters that a chat template may make of one document."""

MAX_RENDER_SECONDS = 10.0
"""Seconds that a chat template may take for one document."""

_CHUNK_BYTES = 2**20


def parse_json(text: str | bytes, where: object) -> Any:
    """The value of a JSON text from outside.

    Raises InputError, which begins with `where`, for text that is no JSON, for the constants NaN
    and Infinity and numbers beyond float64, for integers beyond 64 bits, and for what is nested
    deeper than MAX_DEPTH or holds more than MAX_ELEMENTS values.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}: no valid JSON ({error.msg}, line {error.lineno} column {error.colno})"
        ) from None
    except RecursionError:
        raise InputError(f"{where}: {_too_deep('JSON')}") from None
    except UnicodeDecodeError:
        raise InputError(f"{where}: no valid UTF-8") from None
    except ValueError as error:
        # Python refuses integers of thousands of digits with a ValueError of its own.
        reason = error.args[0] if isinstance(error, _ConstantError) else "an integer is too long"
        raise InputError(f"{where}: no valid JSON ({reason})") from None
    check_value(value, where, "JSON")
    return value


def check_value(value: Any, where: object, kind: str) -> None:
    """Refuse parsed data that is too deep, too large or holds numbers that nothing can store."""
    waiting = [(value, 0)]
    seen = 0
    while waiting:
        item, depth = waiting.pop()
        seen += 1
        if isinstance(item, dict | list):
            if depth >= MAX_DEPTH:
                raise InputError(f"{where}: {_too_deep(kind)}")
            children = item.values() if isinstance(item, dict) else item
            waiting.extend((child, depth + 1) for child in children)
            if seen + len(waiting) > MAX_ELEMENTS:
                raise InputError(f"{where}: {kind} with more than {MAX_ELEMENTS:,} values")
        elif isinstance(item, int) and abs(item) > MAX_INTEGER:
            raise InputError(f"{where}: {kind} with an integer beyond 64 bits")
        elif isinstance(item, float) and not math.isfinite(item):
            raise InputError(f"{where}: {kind} with a number that is not finite")


def load_yaml(text: str, where: object, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """The value of a YAML text from outside, read by a safe loader.

    Raises InputError, which begins with `where`, as `parse_json` does, and for more than
    MAX_ALIASES uses of anchors.
    """
    try:
        _check_events(text, where)
        value = yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        raise InputError(f"{where}: no valid YAML: {_yaml_problem(error)}") from None
    except InputError:
        raise
    except (RecursionError, ValueError):
        raise InputError(f"{where}: no valid YAML: a value cannot be read") from None
    check_value(value, where, "YAML")
    return value


def _check_events(text: str, where: object) -> None:
    """Walk the parser's events, which build nothing, before anything is built."""
    depth = aliases = 0
    for elements, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
        if depth > MAX_DEPTH:
            raise InputError(f"{where}: {_too_deep('YAML')}")
        if aliases > MAX_ALIASES:
            raise InputError(f"{where}: YAML with more than {MAX_ALIASES} uses of anchors")
        if elements > MAX_ELEMENTS:
            raise InputError(f"{where}: YAML with more than {MAX_ELEMENTS:,} values")


def read_bytes(path: Path, largest: int = MAX_TEXT_BYTES) -> bytes:
    """The content of a file; InputError where it cannot be read or is larger than `largest`."""
    try:
        with path.open("rb") as file:
            content = file.read(largest + 1)
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


class _ConstantError(ValueError):
    """JSON holds a constant that the standard does not know."""


def _refuse_constant(name: str) -> Any:
    raise _ConstantError(f"{name} is no JSON number")


def _too_deep(kind: str) -> str:
    return f"{kind} nested deeper than {MAX_DEPTH} levels"


def _yaml_problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        problem = " ".join(str(error.problem).split())
        return f"line {error.problem_mark.line + 1}: {problem}"
    return " ".join(str(error).split())
