"""The class of a view, and the common table expressions that several views share."""

from __future__ import annotations

from dataclasses import dataclass

from labeler.store.outcomes import ANSWERS, sql_list


@dataclass(frozen=True)
class View:
    """One view: description, meaning of the columns, and SELECT."""

    name: str
    description: str
    columns: dict[str, str]
    """Column name -> meaning, in the order of the SELECT."""
    select: str


ADJUDICATED = "adjudicated"
"""The reviewer whose stream settles conflicts between reviewers."""

SETTING = """
setting AS (
  SELECT comparison_id, taxonomy_version_id, judge_id
  FROM (
    SELECT comparison_id, taxonomy_version_id, judge_id,
           row_number() OVER (PARTITION BY comparison_id ORDER BY id DESC) AS n
    FROM comparison_setting
  ) AS ranked_setting
  WHERE n = 1
)"""
"""The active taxonomy version and judge of each comparison."""

MEMBER = """
member AS (
  SELECT c.id AS comparison_id, 'target' AS side, m.latent_id
  FROM comparison AS c JOIN latent_set_member AS m ON m.latent_set_id = c.target_set_id
  UNION ALL
  SELECT c.id AS comparison_id, 'reference' AS side, m.latent_id
  FROM comparison AS c JOIN latent_set_member AS m ON m.latent_set_id = c.reference_set_id
)"""
"""The latents of each side of each comparison."""

STANDING = """
standing AS (
  SELECT d.id, d.latent_id, d.taxonomy_version_id, d.reviewer, d.revision, d.action,
         d.explanation_text, d.based_on_judge_label_id, d.was_blind,
         CASE d.action WHEN 'set' THEN 'assigned' WHEN 'accept' THEN b.outcome
                       ELSE d.action END AS outcome,
         b.explanation_id
  FROM review_event AS head
  JOIN review_event AS d
    ON d.id = CASE WHEN head.action = 'undo' THEN head.restores_event_id ELSE head.id END
  LEFT JOIN judge_label AS b ON b.id = d.based_on_judge_label_id
  WHERE head.action <> 'skip' AND NOT EXISTS (
    SELECT 1
    FROM review_event AS later
    WHERE later.latent_id = head.latent_id
      AND later.taxonomy_version_id = head.taxonomy_version_id
      AND later.reviewer = head.reviewer AND later.revision > head.revision
      AND later.action <> 'skip'
  )
)"""
"""The one decision of each reviewer's stream that is neither skipped nor undone.

"No later one" instead of a row number: both databases answer it by index, and PostgreSQL knows
how many rows it leaves, where it would take `n = 1` for a handful and loop over all labels.
"""

DECISION = f"""
decision AS (
  SELECT *
  FROM (
    SELECT standing.*,
           row_number() OVER (
             PARTITION BY latent_id, taxonomy_version_id
             ORDER BY CASE WHEN reviewer = '{ADJUDICATED}' THEN 0 ELSE 1 END, id DESC
           ) AS n
    FROM standing
  ) AS ranked_decision
  WHERE n = 1
)"""
"""The active decision: the adjudicated one, else the latest."""

_ANSWERS = sql_list(ANSWERS)

VERDICT = f"""
verdict AS (
  SELECT id, latent_id, taxonomy_version_id, judge_id, explanation_id, outcome, confidence
  FROM judge_label AS label
  WHERE NOT is_control AND outcome IN {_ANSWERS} AND NOT EXISTS (
    SELECT 1
    FROM judge_label AS later
    WHERE later.latent_id = label.latent_id
      AND later.taxonomy_version_id = label.taxonomy_version_id
      AND later.judge_id = label.judge_id AND later.id > label.id
      AND NOT later.is_control AND later.outcome IN {_ANSWERS}
  )
)"""
"""The newest label with an answer of each judge for each latent and version."""


LEVEL = "1 = a group, or a leaf without one; 2 = a leaf under a group"
"""Meaning of `level` in every view; levels are the families of the q-values."""

IS_LEAF = "k.id NOT IN (SELECT parent_id FROM category WHERE parent_id IS NOT NULL)"
"""Whether the category `k` is a leaf: none stands below it, at whatever level it is itself."""

LEAF = "no category stands below it, whatever its level: what a latent is assigned to"


def with_tables(*tables: str) -> str:
    """A WITH clause of the given common table expressions."""
    return "WITH" + ",".join(tables) + "\n"
