"""Shared parts of the tables: names of constraints, UTC times, text for both databases."""

from __future__ import annotations

import base64
import re
import uuid
import zlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect, MetaData, String, Text
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeDecorator, TypeEngine

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
"""Unnamed constraints cannot be dropped in SQLite's batch mode, and unnamed CHECKs get lost."""


class Base(DeclarativeBase):
    """Parent of all tables."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)


def utc_now() -> datetime:
    """The present moment, aware, in UTC."""
    return datetime.now(UTC)


def new_act() -> str:
    """A unique id for one act of a reviewer; the decisions of one act share it."""
    return uuid.uuid4().hex


class UtcDateTime(TypeDecorator[datetime]):
    """A time in UTC; SQLite stores no zone, so it is removed on writing and added on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC; ValueError for a moment without a zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time stored in the database needs a time zone")
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the moment as aware UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def storable(text: str) -> str:
    """The text as a database keeps it: NUL and each lone surrogate as U+FFFD."""
    return _UNSTORABLE.sub("\ufffd", text)


class FreeText(TypeDecorator[str]):
    """Text written by models or people: NUL and lone surrogates become U+FFFD."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Replace what PostgreSQL's text or UTF-8 cannot hold, one sign for one character."""
        return None if value is None else storable(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        """Return the text as stored."""
        return value


class OneOf(TypeDecorator[str]):
    """Text from a list that only the code knows: the database has no CHECK for it.

    So a longer list needs no migration. Writing another value raises ValueError.
    """

    impl = String
    cache_ok = True

    def __init__(self, values: Iterable[str], length: int = 16) -> None:
        super().__init__(length)
        self.values = tuple(values)

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Reject a value that is not in the list."""
        if value is not None and value not in self.values:
            raise ValueError(f"{value!r} is not one of {', '.join(self.values)}")
        return value

    def coerce_compared_value(self, op: Any, value: Any) -> TypeEngine[Any]:
        """Compare with any text: only what is written has to be in the list."""
        return self.impl_instance


def matrix_text(matrix: Any) -> str:
    """A matrix as text: type, shape, and the compressed bytes in base 64."""
    import numpy as np

    fixed = np.ascontiguousarray(matrix, dtype=matrix.dtype.newbyteorder("<"))
    body = base64.b64encode(zlib.compress(fixed.tobytes(), level=6)).decode("ascii")
    return f"{fixed.dtype.str} {'x'.join(map(str, fixed.shape))} {body}"


class Matrix(TypeDecorator[Any]):
    """A matrix of numbers as text, see `matrix_text`.

    Text, because both databases, their copies and every exporter carry it alike.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """The matrix as text, little-endian."""
        return None if value is None else matrix_text(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """The matrix as it was written."""
        import numpy as np

        if value is None:
            return None
        dtype, shape, body = value.split(" ", 2)
        numbers = np.frombuffer(zlib.decompress(base64.b64decode(body)), dtype=dtype)
        return numbers.reshape([int(n) for n in shape.split("x")])
