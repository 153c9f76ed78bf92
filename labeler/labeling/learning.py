"""Reviews that teach the judge: which there are, and which latent to review next."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from crosscoder.files import json_sha256
from labeler.embedding.base import Embedder
from labeler.judge.labelled_evidence import NONE
from labeler.judge.latents import load_subjects
from labeler.judge.lessons import Lessons, reviewed_latents
from labeler.judge.similar_reviewed import centre_of
from labeler.store.judging import newest_labels
from labeler.store.outcomes import ANSWERS
from labeler.store.reviews import audit_places
from labeler.store.schema import JudgeCall, TaxonomyVersion
from labeler.store.statements import chunks
from labeler.store.views.base import DECISION, STANDING, with_tables
from taxonomy.teaching_order import teaching_order

MOST_CANDIDATES = 400
"""Latents, the most doubtful ones, whose texts are embedded to find the next reviews."""
MOST_NEXT = 100
"""Reviews that are proposed before the judge is fitted again."""
UNSTATED_DOUBT = 0.5
"""Doubt of a label whose judge states neither doubt nor confidence."""

_DECIDED = text(
    with_tables(STANDING, DECISION)
    + """
SELECT d.latent_id, d.outcome, k.slug
FROM decision AS d
JOIN taxonomy_version AS v ON v.id = d.taxonomy_version_id
LEFT JOIN review_event_category AS rc ON rc.review_event_id = d.id AND rc.rank = 1
LEFT JOIN category AS k ON k.id = rc.category_id
WHERE v.name = :name
ORDER BY v.id, d.latent_id
"""
)


def reviewed_categories(session: Session, taxonomy: str) -> dict[int, str]:
    """Primary category or `none` of each reviewed latent under the newest version of a taxonomy.

    Latents that reviewers call uninterpretable teach nothing.
    """
    found: dict[int, str | None] = {}
    for row in session.execute(_DECIDED, {"name": taxonomy}):
        found[row.latent_id] = row.slug if row.outcome == "assigned" else _none(row.outcome)
    return {latent_id: slug for latent_id, slug in sorted(found.items()) if slug is not None}


def _none(outcome: str) -> str | None:
    return NONE if outcome == NONE else None


def reviewed_sha256(session: Session, taxonomy: str) -> str | None:
    """Hash of the reviewed latents and their categories; None where there are none."""
    found = reviewed_categories(session, taxonomy)
    return json_sha256(sorted(found.items())) if found else None


def read_lessons(session: Session, taxonomy: str) -> Lessons:
    """The reviewed latents of a taxonomy with their evidence."""
    found = reviewed_categories(session, taxonomy)
    return Lessons(reviewed_latents(load_subjects(session, list(found)), list(found.values())))


def next_reviews(
    session: Session,
    embedder: Embedder,
    judge_id: int,
    version_id: int,
    comparison_ids: Collection[int],
    latents: Sequence[int],
) -> list[int]:
    """The latents to review next, at most MOST_NEXT, so that the judge learns most.

    Left out are reviewed latents and those of the active random draws: the draws stay random.
    """
    name = session.get_one(TaxonomyVersion, version_id).name
    reviewed = reviewed_categories(session, name)
    drawn = {one for each in comparison_ids for one in audit_places(session, each)}
    doubts = _doubts(session, judge_id, version_id, latents)
    open_ = [one for one in doubts if one not in reviewed and one not in drawn]
    open_.sort(key=lambda latent_id: (-doubts[latent_id], latent_id))
    candidates = _centres(session, embedder, open_[:MOST_CANDIDATES])
    known = _centres(session, embedder, list(reviewed))
    ids = list(candidates)
    if not ids:
        return []
    order = teaching_order(
        [doubts[latent_id] for latent_id in ids],
        np.stack(list(candidates.values())),
        np.stack(list(known.values())) if known else np.empty((0, 0)),
        MOST_NEXT,
    )
    return [ids[row] for row in order]


def _centres(session: Session, embedder: Embedder, latents: Sequence[int]) -> dict[int, Any]:
    """Mean sentence vector (e,) by latent, without those that have no text."""
    found = {
        subject.latent_id: centre_of(subject, embedder)
        for subject in load_subjects(session, latents)
    }
    return {latent_id: vector for latent_id, vector in found.items() if vector is not None}


def _doubts(
    session: Session, judge_id: int, version_id: int, latents: Sequence[int]
) -> dict[int, float]:
    """Doubt of each answered label: as the judge states it, else 1 minus its confidence."""
    labels = newest_labels(session, latents, judge_id, version_id)
    calls = {row.judge_call_id: row for row in labels.values() if row.judge_call_id is not None}
    stated: dict[int, float] = {}
    for part in chunks(calls):
        query = select(JudgeCall.id, JudgeCall.parsed).where(JudgeCall.id.in_(part))
        for call_id, parsed in session.execute(query):
            if parsed is not None and isinstance(parsed.get("doubt"), float):
                stated[call_id] = parsed["doubt"]
    doubts: dict[int, float] = {}
    for latent_id, label in labels.items():
        if label.outcome in ANSWERS:
            own = UNSTATED_DOUBT if label.confidence is None else 1 - label.confidence
            doubts[latent_id] = stated.get(label.judge_call_id or 0, own)
    return doubts
