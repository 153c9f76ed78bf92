"""Writes and reads evidence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from labeler.store.schema import Evidence, EvidenceDocument
from labeler.store.statements import chunks, number, require_same_length


@dataclass(frozen=True)
class EvidenceRow:
    """One example of a latent; the four sequences have equal length."""

    latent_id: int
    kind: str
    split: str
    document_id: str
    start: int
    tokens: Sequence[str]
    token_ids: Sequence[int]
    roles: Sequence[str]
    activations: Sequence[float]
    quantile: int | None = None


def add_evidence(session: Session, run_id: int, rows: Iterable[EvidenceRow]) -> int:
    """Add examples; returns their number.

    A document keeps the half (explain or score) that it was first given for a latent, so what a
    score is measured on never becomes what an explanation was written from.
    """
    pending = list(rows)
    halves = _halves(session, pending)
    if halves.fresh:
        session.execute(
            insert(EvidenceDocument), [_document(key, half) for key, half in halves.fresh.items()]
        )
    if pending:
        session.execute(
            insert(Evidence), [_window(run_id, row, halves.split_of(row)) for row in pending]
        )
    return len(pending)


def latents_with_evidence(session: Session, run_id: int) -> set[int]:
    """Latents with evidence of that run, which an interrupted collection need not repeat."""
    query = select(Evidence.latent_id).where(Evidence.run_id == run_id).distinct()
    return set(session.execute(query).scalars())


def evidence_of(session: Session, latent_id: int, split: str | None = None) -> list[Evidence]:
    """Examples of a latent from the newest run that collected any, in the order of collection."""
    newest = (
        select(func.max(Evidence.run_id)).where(Evidence.latent_id == latent_id).scalar_subquery()
    )
    query = select(Evidence).where(Evidence.latent_id == latent_id, Evidence.run_id == newest)
    if split is not None:
        query = query.where(Evidence.split == split)
    return list(session.execute(query.order_by(Evidence.id)).scalars())


@dataclass(frozen=True)
class _Halves:
    """The half of each (latent, document): those already stored and those to be stored."""

    known: dict[tuple[int, str], str]
    fresh: dict[tuple[int, str], str]

    def split_of(self, row: EvidenceRow) -> str:
        """The half in which the row's document lies."""
        key = (row.latent_id, row.document_id)
        return self.known[key] if key in self.known else self.fresh[key]


def _halves(session: Session, rows: Sequence[EvidenceRow]) -> _Halves:
    known: dict[tuple[int, str], str] = {}
    for latents in chunks({row.latent_id for row in rows}):
        stored = session.execute(
            select(EvidenceDocument).where(EvidenceDocument.latent_id.in_(latents))
        ).scalars()
        known |= {(row.latent_id, row.document_id): row.split for row in stored}
    fresh: dict[tuple[int, str], str] = {}
    for row in rows:
        key = (row.latent_id, row.document_id)
        if key not in known:
            fresh.setdefault(key, row.split)
    return _Halves(known, fresh)


def _document(key: tuple[int, str], split: str) -> dict[str, object]:
    return {"latent_id": key[0], "document_id": key[1], "split": split}


def _window(run_id: int, row: EvidenceRow, split: str) -> dict[str, object]:
    require_same_length(
        "tokens, token_ids, roles and activations of a window",
        row.tokens,
        row.token_ids,
        row.roles,
        row.activations,
    )
    activations = [number(value) or 0.0 for value in row.activations]
    return {
        **vars(row),
        "run_id": run_id,
        "split": split,
        "tokens": list(row.tokens),
        "token_ids": [int(token) for token in row.token_ids],
        "roles": list(row.roles),
        "activations": activations,
        "max_activation": max(activations, default=0.0),
    }
