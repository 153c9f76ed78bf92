"""The latents of the review queue, read from the database in a few set-wise queries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import bindparam, text
from sqlalchemy.orm import Session

from labeler.store.comparisons import NamedComparison, study_comparisons
from labeler.store.outcomes import ANSWERS, WITHOUT_ANSWER, sql_list
from labeler.store.reviews import AuditPlace, audit_places
from labeler.store.statements import chunks
from labeler.store.views.base import ADJUDICATED

UNSURE = 0.5
"""Confidence that is assumed where a judge states none, as in v_review_queue."""


@dataclass(frozen=True)
class Setting:
    """A comparison with its active taxonomy version and judge."""

    comparison_id: int
    comparison: str
    taxonomy_version_id: int
    judge_id: int


@dataclass(frozen=True)
class QueuedLatent:
    """One latent on one side of a comparison, with what the queue filters and orders by."""

    side: str
    latent_id: int
    crosscoder: str
    latent_index: int
    outcome: str
    source: str | None
    category: str | None
    """Slug of the active primary category."""
    others: tuple[str, ...]
    explanation: str
    judge_answer: str | None
    """Slug or outcome that the active judge gave; None where it gave none."""
    confidence: float | None
    disagreement: float
    reviewed: bool
    conflict: bool
    voices: Mapping[str, str] = field(default_factory=dict)
    """The answer that stands, by reviewer."""
    touched: frozenset[str] = frozenset()
    """Reviewers who have decided, even if they undid it: they have seen the label."""
    skipped: frozenset[str] = frozenset()
    blind: frozenset[str] = frozenset()
    """Reviewers whose standing decision was made without seeing the label."""
    audit: AuditPlace | None = None
    p_reappear: float | None = None
    """Share of the crosscoders of other seeds with a counterpart; None without any."""

    @property
    def priority(self) -> float:
        """How urgently the latent needs review, 0 to 1; the formula of v_review_queue."""
        if self.conflict or self.outcome in WITHOUT_ANSWER:
            return 1.0
        doubt = 1 - (UNSURE if self.confidence is None else self.confidence)
        return max(self.disagreement, doubt)

    @property
    def answer(self) -> str:
        """The active label in one word: its category, else its outcome."""
        return self.category or self.outcome

    def hidden_from(self, reviewer: str) -> bool:
        """Whether the reviewer must still decide it blind."""
        return self.audit is not None and reviewer not in self.touched


def read_settings(
    session: Session, named: Sequence[NamedComparison] | None = None
) -> list[Setting]:
    """The comparisons that the study shows, in its order; `named` as in `study_comparisons`."""
    rows = {row.id: row for row in session.execute(text(_SETTINGS))}
    shown = [rows[comparison.id] for comparison in study_comparisons(session, named).shown]
    return [Setting(row.id, row.name, row.taxonomy_version_id, row.judge_id) for row in shown]


def read_queued_latents(
    session: Session, setting: Setting, latent_ids: Collection[int] | None = None
) -> list[QueuedLatent]:
    """All latents of a comparison, or some of them, with their labels and reviews."""
    audit = audit_places(session, setting.comparison_id)
    names: dict[str, str] = {}
    latents: list[QueuedLatent] = []
    parts: Iterator[list[int] | None]
    parts = iter([None]) if latent_ids is None else chunks(latent_ids)
    for part in parts:
        judged = _judged(session, setting, part)
        reviews = _reviews(session, setting, part)
        others = _others(session, setting, part)
        for row in _rows(session, _LATENTS, setting, part):
            drawn = audit.get(row.latent_id)
            answers = judged.get(row.latent_id, _NO_ANSWERS)
            review = reviews.get(row.latent_id, _NO_REVIEW)
            latents.append(
                QueuedLatent(
                    side=row.side,
                    latent_id=row.latent_id,
                    crosscoder=names.setdefault(row.crosscoder, row.crosscoder),
                    latent_index=row.latent_index,
                    outcome=row.outcome,
                    source=row.source,
                    category=row.category,
                    others=tuple(others.get((row.side, row.latent_id), ())),
                    explanation=row.explanation or "",
                    judge_answer=answers.active,
                    confidence=answers.confidence,
                    disagreement=answers.disagreement,
                    reviewed=bool(row.reviewed),
                    conflict=review.conflict,
                    voices=review.voices,
                    touched=review.touched,
                    skipped=review.skipped,
                    blind=review.blind,
                    audit=drawn if drawn is not None and drawn.side == row.side else None,
                    p_reappear=row.p_reappear,
                )
            )
    return latents


@dataclass(frozen=True)
class _Answers:
    """What the judges said of one latent."""

    active: str | None = None
    confidence: float | None = None
    disagreement: float = 0.0


@dataclass(frozen=True)
class _Review:
    """What the reviewers said of one latent."""

    voices: Mapping[str, str]
    touched: frozenset[str]
    skipped: frozenset[str]
    blind: frozenset[str]

    @property
    def conflict(self) -> bool:
        """Whether reviewers differ and nobody has settled it."""
        return ADJUDICATED not in self.voices and len(set(self.voices.values())) > 1


_NO_ANSWERS = _Answers()
_NO_REVIEW = _Review({}, frozenset(), frozenset(), frozenset())


def _judged(session: Session, setting: Setting, part: Sequence[int] | None) -> dict[int, _Answers]:
    newest: dict[int, dict[int, tuple[str, float | None]]] = defaultdict(dict)
    for row in _rows(session, _LABELS, setting, part):
        newest[row.latent_id][row.judge_id] = (row.answer, row.confidence)
    answers: dict[int, _Answers] = {}
    for latent_id, by_judge in newest.items():
        given = [answer for answer, _ in by_judge.values()]
        most = max(given.count(answer) for answer in set(given))
        own, confidence = by_judge.get(setting.judge_id, (None, None))
        answers[latent_id] = _Answers(own, confidence, 1 - most / len(given))
    return answers


def _reviews(session: Session, setting: Setting, part: Sequence[int] | None) -> dict[int, _Review]:
    """Replay the streams: skips do not count, an undo counts as the decision it restores."""
    answers: dict[int, str] = {}
    blind: set[int] = set()
    heads: dict[int, dict[str, int | None]] = defaultdict(dict)
    skipped: dict[int, set[str]] = defaultdict(set)
    touched: dict[int, set[str]] = defaultdict(set)
    for row in _rows(session, _EVENTS, setting, part):
        if row.action == "skip":
            skipped[row.latent_id].add(row.reviewer)
            continue
        answers[row.id] = row.answer
        if row.was_blind:
            blind.add(row.id)
        touched[row.latent_id].add(row.reviewer)
        is_undo = row.action == "undo"
        heads[row.latent_id][row.reviewer] = row.restores_event_id if is_undo else row.id
    return {
        latent_id: _Review(
            voices={
                reviewer: answers[head]
                for reviewer, head in heads[latent_id].items()
                if head is not None
            },
            touched=frozenset(touched[latent_id]),
            skipped=frozenset(skipped[latent_id]),
            blind=frozenset(name for name, head in heads[latent_id].items() if head in blind),
        )
        for latent_id in {*heads, *skipped}
    }


def _others(
    session: Session, setting: Setting, part: Sequence[int] | None
) -> dict[tuple[str, int], list[str]]:
    found: dict[tuple[str, int], list[str]] = defaultdict(list)
    for row in _rows(session, _OTHERS, setting, part):
        found[row.side, row.latent_id].append(row.slug)
    return found


def _rows(
    session: Session, statement: str, setting: Setting, part: Sequence[int] | None
) -> Sequence[Any]:
    some = "" if part is None else f"AND {_ALIAS[statement]}.latent_id IN :part"
    words = statement.replace("{some}", some)
    values: dict[str, Any] = {
        "comparison_id": setting.comparison_id,
        "version_id": setting.taxonomy_version_id,
        "part": part,
    }
    query = text(words)
    if part is not None:
        query = query.bindparams(bindparam("part", expanding=True))
    used = {name: value for name, value in values.items() if f":{name}" in words}
    return session.connection().execute(query, used).all()


_SETTINGS = """
SELECT c.id, c.name, s.taxonomy_version_id, s.judge_id
FROM comparison AS c JOIN comparison_setting AS s ON s.comparison_id = c.id
WHERE s.id IN (SELECT max(id) FROM comparison_setting GROUP BY comparison_id)
"""
_LATENTS = """
SELECT e.side, e.latent_id, x.name AS crosscoder, l.latent_index, e.outcome, e.source,
       k.slug AS category, coalesce(d.explanation_text, w.text) AS explanation,
       e.review_event_id IS NOT NULL AS reviewed, l.p_reappear
FROM effective_label AS e
JOIN latent AS l ON l.id = e.latent_id
JOIN crosscoder AS x ON x.id = l.crosscoder_id
LEFT JOIN effective_label_category AS ec
  ON ec.comparison_id = e.comparison_id AND ec.side = e.side AND ec.latent_id = e.latent_id
  AND ec.rank = 1
LEFT JOIN category AS k ON k.id = ec.category_id
LEFT JOIN review_event AS d ON d.id = e.review_event_id
LEFT JOIN explanation AS w ON w.id = e.explanation_id
WHERE e.comparison_id = :comparison_id AND e.side IN ('target', 'reference') {some}
"""
_OTHERS = """
SELECT ec.side, ec.latent_id, k.slug
FROM effective_label_category AS ec JOIN category AS k ON k.id = ec.category_id
WHERE ec.comparison_id = :comparison_id AND ec.side IN ('target', 'reference') AND ec.rank > 1
  {some}
ORDER BY ec.rank
"""
_LABELS = f"""
SELECT j.latent_id, j.judge_id, coalesce(k.slug, j.outcome) AS answer,
       coalesce(jc.confidence, j.confidence) AS confidence
FROM judge_label AS j
LEFT JOIN judge_label_category AS jc ON jc.judge_label_id = j.id AND jc.rank = 1
LEFT JOIN category AS k ON k.id = jc.category_id
WHERE j.taxonomy_version_id = :version_id AND NOT j.is_control AND j.outcome IN {sql_list(ANSWERS)}
  {{some}}
ORDER BY j.id
"""
_EVENTS = """
SELECT r.id, r.latent_id, r.reviewer, r.action, r.restores_event_id, r.was_blind,
       coalesce(k.slug, CASE r.action WHEN 'accept' THEN b.outcome ELSE r.action END) AS answer
FROM review_event AS r
LEFT JOIN review_event_category AS rc ON rc.review_event_id = r.id AND rc.rank = 1
LEFT JOIN category AS k ON k.id = rc.category_id
LEFT JOIN judge_label AS b ON b.id = r.based_on_judge_label_id
WHERE r.taxonomy_version_id = :version_id {some}
ORDER BY r.revision
"""
_ALIAS = {_LATENTS: "e", _OTHERS: "ec", _LABELS: "j", _EVENTS: "r"}
