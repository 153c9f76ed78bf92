"""Checksums of tables that are the same on SQLite and PostgreSQL for the same rows."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Table, select

_ROWS_AT_ONCE = 2_000


@dataclass(frozen=True)
class TableDigest:
    """How many rows a table has, and the hash of all their values."""

    table: str
    rows: int
    sha256: str


def digest_table(connection: Connection, table: Table) -> TableDigest:
    """Hash of a table's rows in the order of their primary key."""
    digest, count = hashlib.sha256(), 0
    query = select(table).order_by(*table.primary_key.columns)
    with connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(query) as rows:
        for row in rows:
            digest.update(_line(row._asdict()))
            count += 1
    return TableDigest(table.name, count, digest.hexdigest())


def _line(row: dict[str, Any]) -> bytes:
    text = json.dumps(row, sort_keys=True, separators=(",", ":"), default=_plain)
    return text.encode() + b"\n"


def _plain(value: object) -> str:
    """A moment in words; TypeError for a type that no column has."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds")
    raise TypeError(f"no checksum for {type(value).__name__}")
