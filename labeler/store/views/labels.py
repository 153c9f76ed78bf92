"""Views of labels: the effective ones, the same computed again, and those of every judge."""

from __future__ import annotations

from labeler.store.outcomes import EFFECTIVE_OUTCOMES, FAILED, LABEL_OUTCOMES, sql_list
from labeler.store.views.base import (
    DECISION,
    MEMBER,
    SETTING,
    STANDING,
    VERDICT,
    View,
    with_tables,
)

_EFFECTIVE_COLUMNS = {
    "comparison": "name of the comparison",
    "side": "target or reference",
    "crosscoder": "name of the crosscoder",
    "latent_index": "index of the latent within its crosscoder",
    "latent_id": "key of the latent",
    "explanation": "the active explanation; NULL where there is none",
    "category": "slug of the category; NULL unless the outcome is assigned",
    "parent": "slug of the category's parent; NULL for a parent itself",
    "rank": "1 = primary category; 1 too on the one row of a latent without category",
    "outcome": ", ".join(EFFECTIVE_OUTCOMES),
    "confidence": "the judge's confidence, 0 to 1; NULL for a reviewer's decision",
    "source": "human, judge or import; NULL where unlabelled",
    "judge": "name of the judge whose label is active; NULL for a reviewer's decision",
    "reviewer": "who decided; NULL for a judge's label",
    "revision": "revision of the decision in its reviewer's stream",
    "taxonomy_version": "name and version of the active taxonomy",
    "strength_shift": "by how much more strongly the target model uses the latent than the other "
    "model, below 0 = weakened; of the side's own two models where both sides have a common base",
    "shift_low": "lower end of its 95 % interval",
    "shift_high": "upper end of its 95 % interval",
    "shift_t": "the shift over its standard error",
    "n_seeds": "crosscoders of other seeds that it was looked for in; NULL where train.seeds is 1",
    "p_reappear": "share of them with a counterpart: decoder cosine above 0.7, about as dense",
    "best_cosine": "largest decoder cosine with a latent there, mean over them",
    "span_match": "R^2 of its direction in the span of the ten nearest latents, mean over them",
}
_STABILITY = "l.n_seeds, l.p_reappear, l.best_cosine, l.span_match"
_SHIFTS = "z.strength_shift, z.shift_low, z.shift_high, z.shift_t"


def _joined_scaling(row: str) -> str:
    """Joins of the scaling `z` that tells the shift of the latent of `row` on its side."""
    return f"""LEFT JOIN latent_set AS ts ON ts.id = c.target_set_id
LEFT JOIN latent_set AS rs ON rs.id = c.reference_set_id
LEFT JOIN latent_scaling AS z
  ON z.latent_id = {row}.latent_id
  AND z.target_model_id = CASE
    WHEN {row}.side = 'target' OR rs.against_model_id = ts.target_model_id
    THEN ts.target_model_id ELSE rs.target_model_id END
  AND z.reference_model_id = CASE
    WHEN {row}.side = 'target' OR rs.against_model_id = ts.target_model_id
    THEN ts.against_model_id ELSE rs.against_model_id END
"""


_TABLE = f"""
SELECT c.name AS comparison, e.side, x.name AS crosscoder, l.latent_index, e.latent_id,
       coalesce(d.explanation_text, w.text) AS explanation,
       k.slug AS category, p.slug AS parent, coalesce(ec.rank, 1) AS rank, e.outcome,
       CASE WHEN e.review_event_id IS NULL THEN coalesce(ec.confidence, j.confidence) END
         AS confidence,
       e.source,
       CASE WHEN e.review_event_id IS NULL THEN g.name END AS judge,
       d.reviewer, d.revision, t.name || ' ' || t.version AS taxonomy_version, {_SHIFTS},
       {_STABILITY}
FROM effective_label AS e
JOIN comparison AS c ON c.id = e.comparison_id
JOIN latent AS l ON l.id = e.latent_id
JOIN crosscoder AS x ON x.id = l.crosscoder_id
LEFT JOIN effective_label_category AS ec
  ON ec.comparison_id = e.comparison_id AND ec.side = e.side AND ec.latent_id = e.latent_id
LEFT JOIN category AS k ON k.id = ec.category_id
LEFT JOIN category AS p ON p.id = k.parent_id
LEFT JOIN review_event AS d ON d.id = e.review_event_id
LEFT JOIN judge_label AS j ON j.id = e.judge_label_id
LEFT JOIN judge AS g ON g.id = j.judge_id
LEFT JOIN explanation AS w ON w.id = e.explanation_id
LEFT JOIN taxonomy_version AS t ON t.id = e.taxonomy_version_id
{_joined_scaling("e")}"""

_WORDING = """
wording AS (
  SELECT id, latent_id, judge_id
  FROM (
    SELECT id, latent_id, judge_id,
           row_number() OVER (PARTITION BY latent_id, judge_id ORDER BY id DESC) AS n
    FROM explanation
    WHERE NOT is_control
  ) AS ranked_explanation
  WHERE n = 1
)"""

_FAILED = f"""
failed AS (
  SELECT latent_id, taxonomy_version_id, judge_id, id, outcome
  FROM judge_label
  WHERE id IN (
    SELECT max(id)
    FROM judge_label
    WHERE NOT is_control AND outcome IN {sql_list(FAILED)}
    GROUP BY latent_id, taxonomy_version_id, judge_id
  )
)"""

_CHOICE = """
choice AS (
  SELECT m.comparison_id, m.side, m.latent_id, s.taxonomy_version_id,
         d.id AS event_id, d.reviewer, d.revision, d.explanation_text,
         CASE WHEN d.id IS NULL THEN coalesce(v.id, f.id) END AS label_id,
         coalesce(d.outcome, v.outcome, f.outcome, 'unlabelled') AS outcome,
         CASE WHEN d.id IS NOT NULL THEN 'human'
              WHEN v.id IS NULL AND f.id IS NULL THEN NULL
              WHEN g.endpoint_kind = 'import' THEN 'import'
              ELSE 'judge' END AS source,
         CASE WHEN d.id IS NULL AND (v.id IS NOT NULL OR f.id IS NOT NULL) THEN g.name END
           AS judge,
         v.confidence,
         coalesce(d.explanation_id, v.explanation_id, w.id) AS explanation_id
  FROM member AS m
  LEFT JOIN setting AS s ON s.comparison_id = m.comparison_id
  LEFT JOIN judge AS g ON g.id = s.judge_id
  LEFT JOIN decision AS d
    ON d.latent_id = m.latent_id AND d.taxonomy_version_id = s.taxonomy_version_id
  LEFT JOIN verdict AS v
    ON v.latent_id = m.latent_id AND v.taxonomy_version_id = s.taxonomy_version_id
    AND v.judge_id = s.judge_id
  LEFT JOIN failed AS f
    ON f.latent_id = m.latent_id AND f.taxonomy_version_id = s.taxonomy_version_id
    AND f.judge_id = s.judge_id
  LEFT JOIN wording AS w ON w.latent_id = m.latent_id AND w.judge_id = s.judge_id
)"""

_CHOSEN = """
chosen AS (
  SELECT h.comparison_id, h.side, h.latent_id, rc.category_id, rc.rank, NULL AS confidence
  FROM choice AS h JOIN review_event_category AS rc ON rc.review_event_id = h.event_id
  UNION ALL
  SELECT h.comparison_id, h.side, h.latent_id, lc.category_id, lc.rank, lc.confidence
  FROM choice AS h JOIN judge_label_category AS lc ON lc.judge_label_id = h.label_id
)"""

_COMPUTED = (
    with_tables(SETTING, MEMBER, STANDING, DECISION, VERDICT, _FAILED, _WORDING, _CHOICE, _CHOSEN)
    + f"""
SELECT c.name AS comparison, h.side, x.name AS crosscoder, l.latent_index, h.latent_id,
       coalesce(h.explanation_text, w.text) AS explanation,
       k.slug AS category, p.slug AS parent, coalesce(n.rank, 1) AS rank, h.outcome,
       CASE WHEN h.event_id IS NULL THEN coalesce(n.confidence, h.confidence) END AS confidence,
       h.source, h.judge, h.reviewer, h.revision,
       t.name || ' ' || t.version AS taxonomy_version, {_SHIFTS},
       {_STABILITY}
FROM choice AS h
JOIN comparison AS c ON c.id = h.comparison_id
JOIN latent AS l ON l.id = h.latent_id
JOIN crosscoder AS x ON x.id = l.crosscoder_id
LEFT JOIN chosen AS n
  ON n.comparison_id = h.comparison_id AND n.side = h.side AND n.latent_id = h.latent_id
LEFT JOIN category AS k ON k.id = n.category_id
LEFT JOIN category AS p ON p.id = k.parent_id
LEFT JOIN explanation AS w ON w.id = h.explanation_id
LEFT JOIN taxonomy_version AS t ON t.id = h.taxonomy_version_id
{_joined_scaling("h")}"""
)

_JUDGE_LABEL = (
    with_tables(SETTING, MEMBER)
    + """
SELECT c.name AS comparison, m.side, j.latent_id, g.name AS judge, j.run_id AS run, j.outcome,
       k.slug AS category, coalesce(jc.rank, 1) AS rank,
       coalesce(jc.confidence, j.confidence) AS confidence, j.created_at, jc.quote, jc.quote_found
FROM member AS m
JOIN comparison AS c ON c.id = m.comparison_id
JOIN setting AS s ON s.comparison_id = m.comparison_id
JOIN judge_label AS j
  ON j.latent_id = m.latent_id AND j.taxonomy_version_id = s.taxonomy_version_id
JOIN judge AS g ON g.id = j.judge_id
LEFT JOIN judge_label_category AS jc ON jc.judge_label_id = j.id
LEFT JOIN category AS k ON k.id = jc.category_id
WHERE NOT j.is_control
"""
)

EFFECTIVE_LABEL = View(
    name="v_effective_label",
    description="The active label of every latent: one row per latent and category.",
    columns=_EFFECTIVE_COLUMNS,
    select=_TABLE,
)
EFFECTIVE_LABEL_COMPUTED = View(
    name="v_effective_label_computed",
    description="v_effective_label computed again from labels and decisions: equal, but slower.",
    columns=_EFFECTIVE_COLUMNS,
    select=_COMPUTED,
)
JUDGE_LABEL = View(
    name="v_judge_label",
    description="Every label of every judge under the active taxonomy version.",
    columns={
        "comparison": "name of the comparison",
        "side": "target or reference",
        "latent_id": "key of the latent",
        "judge": "name of the judge",
        "run": "run that wrote the label",
        "outcome": ", ".join(LABEL_OUTCOMES),
        "category": "slug of the category; NULL unless the outcome is assigned",
        "rank": "1 = primary category",
        "confidence": "the judge's confidence, 0 to 1",
        "created_at": "when the label was written, UTC",
        "quote": "quote from the evidence or the explanation that supports the category",
        "quote_found": "false where the quote is in neither; NULL without a quote",
    },
    select=_JUDGE_LABEL,
)
VIEWS = (EFFECTIVE_LABEL, EFFECTIVE_LABEL_COMPUTED, JUDGE_LABEL)
