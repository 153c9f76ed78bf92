"""Reads what the judge in force and the reviewers said of each latent, kept apart.

The judge's word is its newest usable label, never the effective one. The random, blind part of the
reviews is the newest standing decision that was drawn at random and made without the label in view.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from crosscoder.settings import SIDES, SideName
from labeler.report.comparisons import ComparisonFacts
from labeler.report.statistics import CategoryPlace
from labeler.store.outcomes import LABELLED
from labeler.store.view_definitions.base import DECISION, MEMBER, STANDING, VERDICT, with_tables

if TYPE_CHECKING:
    from taxonomy.corrected_change import CountedLabel, JudgedLatent

_JUDGED = text(
    with_tables(MEMBER, VERDICT)
    + """
SELECT m.side, m.latent_id, v.outcome, k.slug AS category
FROM member AS m
JOIN verdict AS v
  ON v.latent_id = m.latent_id AND v.taxonomy_version_id = :version AND v.judge_id = :judge
LEFT JOIN judge_label_category AS jc ON jc.judge_label_id = v.id AND jc.rank = 1
LEFT JOIN category AS k ON k.id = jc.category_id
WHERE m.comparison_id = :comparison
ORDER BY m.side, m.latent_id
"""
)
_DECIDED = text(
    with_tables(MEMBER, STANDING, DECISION)
    + """
SELECT m.side, m.latent_id, d.outcome, k.slug AS category
FROM member AS m
JOIN decision AS d ON d.latent_id = m.latent_id AND d.taxonomy_version_id = :version
LEFT JOIN review_event_category AS rc ON rc.review_event_id = d.id AND rc.rank = 1
LEFT JOIN category AS k ON k.id = rc.category_id
WHERE m.comparison_id = :comparison
"""
)
_AUDITED = text(
    with_tables(MEMBER, STANDING)
    + """
SELECT m.side, m.latent_id, s.outcome, k.slug AS category, e.inclusion_prob
FROM member AS m
JOIN standing AS s ON s.latent_id = m.latent_id AND s.taxonomy_version_id = :version
JOIN review_event AS e ON e.id = s.id
LEFT JOIN review_event_category AS rc ON rc.review_event_id = s.id AND rc.rank = 1
LEFT JOIN category AS k ON k.id = rc.category_id
WHERE m.comparison_id = :comparison AND e.was_blind AND e.selection = 'random'
ORDER BY s.id
"""
)


@dataclass(frozen=True)
class JudgedSides:
    """The latents with a label of the judge in force, side by side."""

    target: tuple[JudgedLatent, ...]
    reference: tuple[JudgedLatent, ...]


def read_judged(
    session: Session, facts: ComparisonFacts, places: Sequence[CategoryPlace], denominator: str
) -> JudgedSides:
    """Judge and reviewers on every latent that the judge has labelled; primary categories."""
    from taxonomy.corrected_change import JudgedLatent

    values = {
        "comparison": facts.comparison.id,
        "version": facts.version.id,
        "judge": facts.judge_id,
    }
    parents = {place.category: place.parent for place in places}
    decided = {_key(row): row for row in session.execute(_DECIDED, values)}
    audited = {_key(row): row for row in session.execute(_AUDITED, values)}
    sides: dict[str, list[JudgedLatent]] = defaultdict(list)
    for row in session.execute(_JUDGED, values):
        audit, decision = audited.get(_key(row)), decided.get(_key(row))
        human = audit if audit is not None else decision
        sides[row.side].append(
            JudgedLatent(
                judge=_answer(row, parents, denominator),
                human=None if human is None else _answer(human, parents, denominator),
                is_audited=audit is not None,
                inclusion_prob=None if audit is None else audit.inclusion_prob,
            )
        )
    target, reference = (tuple(sides[side]) for side in SIDES)
    return JudgedSides(target, reference)


def _key(row: Any) -> tuple[SideName, int]:
    return row.side, row.latent_id


def _answer(row: Any, parents: dict[str, str | None], denominator: str) -> CountedLabel:
    from taxonomy.corrected_change import CountedLabel

    own = {row.category} if row.outcome == "assigned" and row.category else set()
    above = {parents.get(category) for category in own} - {None}
    counts = {
        "labelled": row.outcome in LABELLED,
        "assigned": row.outcome == "assigned",
        "isolated": True,
    }[denominator]
    return CountedLabel(frozenset(str(category) for category in own | above), counts)
