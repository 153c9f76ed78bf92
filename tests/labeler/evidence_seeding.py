"""Evidence in a database, from the windows of the judges' tests."""

from __future__ import annotations

from collections.abc import Sequence

from judge_subjects import window
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from labeler.judge.base import Example
from labeler.store.engine import write_session
from labeler.store.latents import EvidenceRow, add_evidence
from labeler.store.runs import begin_run


def add_windows(session: Session, run_id: int, latent_id: int, windows: Sequence[Example]) -> None:
    """Write windows of one latent, each from a document of its own."""
    add_evidence(
        session,
        run_id,
        [
            EvidenceRow(
                latent_id=latent_id,
                kind=each.kind,
                split=each.split,
                document_id=f"d{number}-{each.split}",
                start=0,
                tokens=each.tokens,
                token_ids=range(len(each.tokens)),
                roles=each.roles,
                activations=each.activations,
                quantile=each.quantile,
            )
            for number, each in enumerate(windows)
        ],
    )


def distinct_windows(word: str, n: int = 4) -> list[Example]:
    """Windows that fire on `word`, different for each word."""
    return [window(f"text number {number} says <<{word}>> to us.") for number in range(n)]


def begin(engine: Engine, kind: str = "label") -> int:
    """A new run."""
    with write_session(engine) as session:
        return begin_run(session, kind, {})
