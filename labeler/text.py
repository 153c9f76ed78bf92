"""Formats text, numbers and CSV for display: visible characters, safe spreadsheets."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

MAX_TOKEN_CHARACTERS = 200
"""A token longer than this is cut in a report."""

_FORMAT_CONTROLS = re.compile(
    "[\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"
)
"""Invisible characters that reorder, hide or break text, without joiners of scripts and emoji."""

_SUSPECT = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ue000-\uf8ff\U000f0000-\U0010ffff]|"
    + _FORMAT_CONTROLS.pattern
)
"""Characters that may be replaced; most texts have none and are returned at once."""


def visible(text: str, keep: str = "\n\t") -> str:
    """The text with control characters, reordering marks and lone surrogates made visible."""
    if not _SUSPECT.search(text):
        return text
    return "".join(_visible_character(character, keep) for character in text)


def _visible_character(character: str, keep: str) -> str:
    code = ord(character)
    if character in keep:
        return character
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    if 0x80 <= code <= 0x9F or _FORMAT_CONTROLS.match(character):
        return f"\u27e8U+{code:04X}\u27e9"
    if unicodedata.category(character) in ("Cs", "Co"):
        return "\ufffd"
    return character


def one_line(text: str, longest: int | None = None) -> str:
    """Visible text on one line, cut to `longest` characters."""
    line = " ".join(visible(text, keep="\n\t\r").split())
    return clip(line, longest) if longest is not None else line


def clip(text: str, longest: int) -> str:
    """The text, or its start with the number of omitted characters."""
    if len(text) <= longest:
        return text
    return f"{text[:longest]}\u2026 (+{len(text) - longest:,} characters)"


def percent_text(value: float | None) -> str:
    """A signed percentage, finer where it is small; empty for None."""
    if value is None:
        return ""
    return f"{value:+.0f}%" if abs(value) >= 10 else f"{value:+.1f}%"


def interval_text(low: float | None, high: float | None) -> str:
    """A 95% interval of a percentage; a bound of None is infinite, two mean undefined."""
    if low is None and high is None:
        return ""
    left = "-\u221e" if low is None else percent_text(low)
    right = "\u221e" if high is None else percent_text(high)
    return f"{left} to {right}"


def probability_text(value: float | None) -> str:
    """A p- or q-value; empty for None."""
    if value is None:
        return ""
    if value < 0.001:
        return "<0.001"
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def share_text(value: float | None) -> str:
    """A share as a percentage; empty for None."""
    return "" if value is None else f"{100 * value:.1f}%"


def number_text(value: float | None, digits: int = 2) -> str:
    """A number of an interval or a norm; an en dash for None."""
    return "\u2013" if value is None else f"{value:.{digits}f}"


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """A count with its noun."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def listed(items: list[str], most: int | None = None) -> str:
    """Items joined by commas and `and`: the first `most`, and how many more there are."""
    if most is not None and len(items) > most:
        items = [*items[:most], f"{len(items) - most} more"]
    if len(items) <= 1:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


BYTE_ORDER_MARK = "\ufeff"
"""First character of a CSV for spreadsheets, which else read UTF-8 in the system's encoding."""
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""Text that a spreadsheet would take for a formula; it is written with a quote mark in front."""
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?%?")


def guarded(value: Any) -> Any:
    """The value, with a quote mark before text that a spreadsheet would run as a formula.

    Numbers and percentages stay as they are, even as text.
    """
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def unguarded(value: str) -> str:
    """A cell as it was before `guarded`."""
    if not (value.startswith("'") and _FORMULA.match(value)):
        return value
    return value if _NUMBER.fullmatch(value[1:]) else value[1:]


def csv_for_people(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """CSV for a spreadsheet, with a byte-order mark and without formulas."""
    safe = ([guarded(value) for value in row] for row in rows)
    return BYTE_ORDER_MARK + csv_text([guarded(name) for name in columns], safe)


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A header and rows, lines ending in a line feed; None is an empty field.

    Python's writer quotes only its own line terminator. With `CR LF` as the terminator, a carriage
    return within a field is quoted as well.
    """
    lines = []
    for values in (columns, *rows):
        buffer = io.StringIO(newline="")
        csv.writer(buffer, lineterminator="\r\n").writerow(values)
        lines.append(buffer.getvalue().removesuffix("\r\n"))
    return "\n".join([*lines, ""])
