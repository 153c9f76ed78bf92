"""What statements share: keys in chunks, a row found or made, the newest explanations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from labeler.store.schema import Base, Explanation

Row = TypeVar("Row", bound=Base)
Item = TypeVar("Item")
CHUNK = 500
"""Keys in one `IN (...)`, well below both databases' limits."""


def get_or_create(session: Session, model: type[Row], key: dict[str, Any], **values: Any) -> Row:
    """The row with this natural key; a race with another writer gives the other's row."""
    found = session.execute(select(model).filter_by(**key)).scalar_one_or_none()
    if found is not None:
        return found
    row = model(**key, **values)
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:
        return session.execute(select(model).filter_by(**key)).scalar_one()
    return row


def chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Lists of at most CHUNK items."""
    pending: list[Item] = []
    for item in items:
        pending.append(item)
        if len(pending) == CHUNK:
            yield pending
            pending = []
    if pending:
        yield pending


def newest_explanation_ids(*conditions: ColumnElement[bool]) -> Select[int]:
    """The newest of the explanations that meet the conditions: of each latent, controls apart."""
    return (
        select(func.max(Explanation.id))
        .where(*conditions)
        .group_by(Explanation.latent_id, Explanation.is_control)
    )


def number(value: float | None) -> float | None:
    """A float, with NaN and infinity, which mean undefined, as NULL."""
    if value is None or not math.isfinite(value):
        return None
    return float(value)


def require_same_length(names: str, *sequences: Sequence[Any]) -> None:
    """Raise ValueError unless the sequences have one length."""
    if len({len(sequence) for sequence in sequences}) > 1:
        raise ValueError(f"{names} differ in length")
