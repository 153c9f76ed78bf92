"""Views for reviewers: the queue, and agreement of judge and reviewers."""

from __future__ import annotations

from labeler.store.outcomes import ANSWERS, WITHOUT_ANSWER, sql_list
from labeler.store.views.base import (
    ADJUDICATED,
    SETTING,
    STANDING,
    VERDICT,
    View,
    with_tables,
)

_JUDGED = """
judged AS (
  SELECT v.latent_id, v.taxonomy_version_id, v.judge_id,
         coalesce(k.slug, v.outcome) AS answer, coalesce(jc.confidence, v.confidence) AS confidence
  FROM verdict AS v
  LEFT JOIN judge_label_category AS jc ON jc.judge_label_id = v.id AND jc.rank = 1
  LEFT JOIN category AS k ON k.id = jc.category_id
)"""

_SPLIT = f"""
answered AS (
  SELECT latent_id, taxonomy_version_id, answer FROM judged
  UNION ALL
  SELECT m.latent_id, m.taxonomy_version_id, coalesce(k.slug, m.outcome)
  FROM label_sample AS m
  LEFT JOIN category AS k ON k.id = m.category_id
  WHERE m.outcome IN {sql_list(ANSWERS)} AND m.id IN (
    SELECT max(id) FROM label_sample
    GROUP BY latent_id, judge_id, taxonomy_version_id, sample
  )
),
tally AS (
  SELECT latent_id, taxonomy_version_id, answer, count(*) AS n
  FROM answered
  GROUP BY latent_id, taxonomy_version_id, answer
),
split AS (
  SELECT latent_id, taxonomy_version_id,
         1 - CAST(max(n) AS DOUBLE PRECISION) / sum(n) AS disagreement
  FROM tally
  GROUP BY latent_id, taxonomy_version_id
)"""

_CONFLICT = f"""
voice AS (
  SELECT s.latent_id, s.taxonomy_version_id, s.reviewer, coalesce(k.slug, s.outcome) AS answer
  FROM standing AS s
  LEFT JOIN review_event_category AS rc ON rc.review_event_id = s.id AND rc.rank = 1
  LEFT JOIN category AS k ON k.id = rc.category_id
),
conflict AS (
  SELECT latent_id, taxonomy_version_id
  FROM voice
  GROUP BY latent_id, taxonomy_version_id
  HAVING count(DISTINCT answer) > 1
     AND count(CASE WHEN reviewer = '{ADJUDICATED}' THEN 1 END) = 0
)"""

_AUDIT = """
audit AS (
  SELECT d.comparison_id, d.side, m.latent_id,
         CAST(d.n_drawn AS DOUBLE PRECISION) / d.n_population AS inclusion_prob
  FROM audit_draw AS d JOIN audit_member AS m ON m.audit_draw_id = d.id
  WHERE d.id IN (SELECT max(id) FROM audit_draw GROUP BY comparison_id, side)
),
audited AS (
  SELECT DISTINCT s.latent_id, s.taxonomy_version_id
  FROM standing AS s JOIN review_event AS r ON r.id = s.id
  WHERE r.selection = 'random'
)"""
"""Latents of the active random draws, and those on which a decision of a draw stands."""

_OPEN = f"""
open_item AS (
  SELECT c.name AS comparison, e.side, e.latent_id,
         CASE WHEN f.latent_id IS NOT NULL THEN 'reviewers disagree'
              WHEN e.outcome IN {sql_list(WITHOUT_ANSWER)} THEN e.outcome
              WHEN a.latent_id IS NOT NULL AND u.latent_id IS NULL THEN 'audit'
              WHEN s.disagreement > 0 THEN 'judges disagree'
              ELSE 'not reviewed' END AS reason,
         coalesce(s.disagreement, 0) AS disagreement, j.confidence,
         CASE WHEN a.latent_id IS NULL THEN 'uncertain' ELSE 'random' END AS selection,
         a.inclusion_prob
  FROM effective_label AS e
  JOIN comparison AS c ON c.id = e.comparison_id
  LEFT JOIN setting AS g ON g.comparison_id = e.comparison_id
  LEFT JOIN judged AS j
    ON j.latent_id = e.latent_id AND j.taxonomy_version_id = e.taxonomy_version_id
    AND j.judge_id = g.judge_id
  LEFT JOIN split AS s
    ON s.latent_id = e.latent_id AND s.taxonomy_version_id = e.taxonomy_version_id
  LEFT JOIN conflict AS f
    ON f.latent_id = e.latent_id AND f.taxonomy_version_id = e.taxonomy_version_id
  LEFT JOIN audit AS a
    ON a.comparison_id = e.comparison_id AND a.side = e.side AND a.latent_id = e.latent_id
  LEFT JOIN audited AS u
    ON u.latent_id = e.latent_id AND u.taxonomy_version_id = e.taxonomy_version_id
  WHERE e.review_event_id IS NULL OR f.latent_id IS NOT NULL
     OR (a.latent_id IS NOT NULL AND u.latent_id IS NULL)
)"""

_QUEUE = (
    with_tables(SETTING, STANDING, VERDICT, _JUDGED, _SPLIT, _CONFLICT, _AUDIT, _OPEN)
    + f"""
SELECT comparison, side, latent_id, reason,
       CASE WHEN reason IN {sql_list(("reviewers disagree", *WITHOUT_ANSWER))} THEN 1
            WHEN disagreement > 1 - coalesce(confidence, 0.5) THEN disagreement
            ELSE 1 - coalesce(confidence, 0.5) END AS priority,
       disagreement, confidence, selection, inclusion_prob
FROM open_item
"""
)

_DECIDED = """
decided AS (
  SELECT e.comparison_id, e.side, e.latent_id, r.was_blind,
         coalesce(k.slug, e.outcome) AS answer
  FROM effective_label AS e
  JOIN review_event AS r ON r.id = e.review_event_id
  LEFT JOIN effective_label_category AS ec
    ON ec.comparison_id = e.comparison_id AND ec.side = e.side AND ec.latent_id = e.latent_id
    AND ec.rank = 1
  LEFT JOIN category AS k ON k.id = ec.category_id
)"""
"""The active decisions."""

_AGREEMENT = (
    with_tables(SETTING, VERDICT, _JUDGED, _DECIDED)
    + """
SELECT c.name AS comparison, d.side, j.answer AS judge_category, d.answer AS human_category,
       count(*) AS n, count(CASE WHEN d.was_blind THEN 1 END) AS n_blind
FROM decided AS d
JOIN comparison AS c ON c.id = d.comparison_id
JOIN setting AS s ON s.comparison_id = d.comparison_id
JOIN judged AS j
  ON j.latent_id = d.latent_id AND j.taxonomy_version_id = s.taxonomy_version_id
  AND j.judge_id = s.judge_id
GROUP BY c.name, d.side, j.answer, d.answer
"""
)

REVIEW_QUEUE = View(
    name="v_review_queue",
    description="Latents without a decision, of an open random audit, or where reviewers disagree.",
    columns={
        "comparison": "name of the comparison",
        "side": "target or reference",
        "latent_id": "key of the latent",
        "reason": f"reviewers disagree, {', '.join(WITHOUT_ANSWER)}, audit, judges disagree or "
        "not reviewed",
        "priority": "0 to 1, the highest first",
        "disagreement": "share of judges and samples whose primary category is not the most common",
        "confidence": "confidence of the active judge in its primary category",
        "selection": "random = of the active random draw, else uncertain",
        "inclusion_prob": "probability of inclusion in the random draw; NULL otherwise",
    },
    select=_QUEUE,
)
JUDGE_VS_HUMAN = View(
    name="v_judge_vs_human",
    description="Primary category of the active judge against the reviewers' decision.",
    columns={
        "comparison": "name of the comparison",
        "side": "target or reference",
        "judge_category": "slug, none or uninterpretable",
        "human_category": "slug, none or uninterpretable",
        "n": "latents",
        "n_blind": "of these, decided without seeing the judge's label",
    },
    select=_AGREEMENT,
)
VIEWS = (REVIEW_QUEUE, JUDGE_VS_HUMAN)
