"""How the answer to a question is printed: table, CSV or JSON."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from labeler.errors import UsageError
from labeler.store.query.result import QueryResult
from labeler.text import csv_for_people, csv_text, visible

MOST_PADDING = 400
"""Widest column that shorter cells are padded to: one long text must not widen every row."""


def format_result(result: QueryResult, output: str = "table") -> str:
    """The answer as `table`, `csv` (with a header), `spreadsheet` (the same for people: with a
    byte-order mark, and nothing in it runs as a formula) or `json` (an array of objects).

    CSV and JSON are exact; a table is for reading and rounds as `shown_number` does.
    """
    if output in ("csv", "spreadsheet"):
        return _as_csv(result, csv_text if output == "csv" else csv_for_people)
    if output == "json":
        return _as_json(result)
    if output == "table":
        return _as_table(result)
    raise UsageError(f"format: {output!r} is not known; choose table, csv or json")


def _as_csv(result: QueryResult, write: Callable[..., str]) -> str:
    return write(result.columns, ([_plain(value) for value in row] for row in result.rows))


def for_terminal(text: str) -> str:
    """CSV or JSON as a terminal may show it: escape sequences and reordering marks made visible."""
    return visible(text, keep="\n\t")


def _finite(value: Any) -> Any:
    """The value, or None for an infinite or undefined number, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _as_json(result: QueryResult) -> str:
    names = _distinct(result.columns)
    rows = [
        {name: _finite(_plain(value)) for name, value in zip(names, row, strict=True)}
        for row in result.rows
    ]
    text = json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
    # Half of a character has no UTF-8; its escape is the same JSON string.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _as_table(result: QueryResult) -> str:
    cells = [[_cell(value) for value in row] for row in result.rows]
    widths = [
        min(MOST_PADDING, max([len(name), *(len(row[index]) for row in cells)]))
        for index, name in enumerate(result.columns)
    ]
    is_number = [
        any(isinstance(row[index], int | float | Decimal) for row in result.rows)
        for index in range(len(widths))
    ]

    def line(values: Sequence[str]) -> str:
        padded = (
            value.rjust(width) if right else value.ljust(width)
            for value, width, right in zip(values, widths, is_number, strict=True)
        )
        return "  ".join(padded).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(result.columns), rule, *(line(row) for row in cells)]) + "\n"


def _cell(value: Any) -> str:
    """One line without control characters: what a model wrote does not move the cursor."""
    plain = shown_number(_plain(value))
    return "" if plain is None else visible(" ".join(str(plain).split("\n")), keep="")


def shown_number(value: Any) -> Any:
    """A fraction as a reader wants it: six significant digits, and of a million on no decimals.

    Anything but a float or a Decimal is left as it is.
    """
    if not isinstance(value, float | Decimal):
        return value
    number = float(value)
    return f"{number:.0f}" if 1e6 <= abs(number) < 1e15 else f"{number:.6g}"


def _plain(value: Any) -> Any:
    """A value that CSV and JSON can hold, nothing of it rounded."""
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    return value


def _distinct(columns: Sequence[str]) -> list[str]:
    """Column names with a number where one occurs again, so that no JSON key is lost."""
    names: dict[str, None] = {}
    numbers: Counter[str] = Counter()
    for name in columns:
        candidate = name
        while candidate in names:
            numbers[name] += 1
            candidate = f"{name}_{numbers[name] + 1}"
        names[candidate] = None
    return list(names)
