"""The latent that a person names."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from labeler.errors import UsageError
from labeler.store.latent_records import LARGEST_INDEX
from labeler.store.schema import Crosscoder, Latent
from labeler.text import clip

BY_ID = "id"
"""Before a latent_id that is also the index of another latent."""
_SPELLINGS = "write crosscoder:latent_index, or id:latent_id"


def find_latent(session: Session, name: str) -> Latent:
    """The latent named `crosscoder:latent_index`, `id:latent_id`, or by a bare number.

    UsageError where there is none, and where a bare number is one latent's index and another's
    id, or the index of several.
    """
    crosscoder, separator, digits = name.rpartition(":")
    if not (digits.isascii() and digits.isdigit()):
        raise UsageError(f"latent {clip(name, 80)!r}: {_SPELLINGS}")
    digits = digits.lstrip("0") or "0"
    if len(digits) > len(str(LARGEST_INDEX)) or int(digits) > LARGEST_INDEX:
        raise _unknown(name)
    number = int(digits)
    by_id = session.get(Latent, number)
    if separator:
        found = _by_index(session, number, crosscoder)
        if not found and crosscoder == BY_ID and by_id is not None:
            found = [by_id]
        if not found:
            raise _unknown(name)
        return found[0]
    meant = {latent.id: latent for latent in _by_index(session, number)}
    if by_id is not None:
        meant[by_id.id] = by_id
    if not meant:
        raise _unknown(name)
    if len(meant) > 1:
        raise _ambiguous(session, name, list(meant.values()), by_id)
    return next(iter(meant.values()))


def latent_title(session: Session, latent: Latent) -> str:
    """The latent by both of its names."""
    crosscoder = session.get_one(Crosscoder, latent.crosscoder_id)
    return f"{crosscoder.name}:{latent.latent_index} (latent_id {latent.id})"


def _by_index(session: Session, index: int, crosscoder: str | None = None) -> list[Latent]:
    query = (
        select(Latent)
        .join(Crosscoder, Crosscoder.id == Latent.crosscoder_id)
        .where(Latent.latent_index == index)
        .order_by(Crosscoder.name)
    )
    if crosscoder is not None:
        query = query.where(Crosscoder.name == crosscoder)
    return list(session.execute(query).scalars())


def _unknown(name: str) -> UsageError:
    return UsageError(
        f"latent {clip(name, 80)!r}: not in the database; see v_effective_label for names"
    )


def _ambiguous(
    session: Session, name: str, meant: list[Latent], by_id: Latent | None
) -> UsageError:
    by_index = [latent_title(session, each) for each in meant if each is not by_id]
    said = [f"the latent_index of {' and of '.join(by_index)}"]
    if by_id is not None:
        said.append(f"the latent_id of {latent_title(session, by_id)}")
    return UsageError(f"latent {name!r}: is {', and '.join(said)}; {_SPELLINGS}")
