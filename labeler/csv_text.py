"""CSV that every reader takes apart as it was put together."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any


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
