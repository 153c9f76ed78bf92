"""CSV that every reader takes apart as it was put together."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

BYTE_ORDER_MARK = "\ufeff"
"""Before a CSV that people open: without it spreadsheets take UTF-8 for the system's encoding."""
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""Text that a spreadsheet would take for a formula gets one quote mark more on the way out."""
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?%?")


def guarded(value: Any) -> Any:
    """The value with a quote mark before text that a spreadsheet would run as a formula.

    Numbers and percentages stay as they are, those that are text too.
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
    """CSV for a spreadsheet: a byte-order mark, and nothing in it runs."""
    safe = ([guarded(value) for value in row] for row in rows)
    return BYTE_ORDER_MARK + csv_text([guarded(name) for name in columns], safe)


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A header and rows, lines ending in a line feed; None is an empty field.

    Python's writer quotes only the line break that ends its own lines, so a carriage return
    within a field would begin a new row for the reader; it is told to end lines with both.
    """
    lines = []
    for values in (columns, *rows):
        buffer = io.StringIO(newline="")
        csv.writer(buffer, lineterminator="\r\n").writerow(values)
        lines.append(buffer.getvalue().removesuffix("\r\n"))
    return "\n".join([*lines, ""])
