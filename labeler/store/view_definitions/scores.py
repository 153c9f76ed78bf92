"""Views of what measures the judge: scores of explanations, and base rates of control latents."""

from __future__ import annotations

from labeler.store.outcomes import LABELLED, sql_list
from labeler.store.view_definitions.base import LEVEL, SETTING, VERDICT, View, with_tables

_SCORE = """
WITH newest AS (
  SELECT max(id) AS id FROM explanation_score GROUP BY explanation_id, judge_id, method
)
SELECT x.id AS crosscoder_id, x.name AS crosscoder, l.latent_index, e.latent_id,
       e.id AS explanation_id, e.text AS explanation, e.is_control AS is_shuffled,
       j.name AS judge, s.method, s.balanced_accuracy, s.ci_low, s.ci_high, s.n_asked, s.n_parsed,
       s.n_positive, s.n_negative, s.n_true_positive, s.n_true_negative, s.reason, s.run_id
FROM explanation_score AS s
JOIN newest AS n ON n.id = s.id
JOIN explanation AS e ON e.id = s.explanation_id
JOIN latent AS l ON l.id = e.latent_id
JOIN crosscoder AS x ON x.id = l.crosscoder_id
JOIN judge AS j ON j.id = s.judge_id
"""

_IN_FORCE = """
control AS (
  SELECT c.comparison_id, c.latent_id
  FROM control_latent AS c
  JOIN (
    SELECT comparison_id, max(run_id) AS run_id FROM control_latent GROUP BY comparison_id
  ) AS newest ON newest.comparison_id = c.comparison_id AND newest.run_id = c.run_id
)"""

_LABELLED = f"""
labelled AS (
  SELECT c.comparison_id, c.latent_id, v.outcome, lc.category_id
  FROM control AS c
  JOIN setting AS s ON s.comparison_id = c.comparison_id
  JOIN verdict AS v
    ON v.latent_id = c.latent_id AND v.judge_id = s.judge_id
    AND v.taxonomy_version_id = s.taxonomy_version_id
  LEFT JOIN judge_label_category AS lc ON lc.judge_label_id = v.id AND lc.rank = 1
  WHERE v.outcome IN {sql_list(LABELLED)}
),
total AS (
  SELECT comparison_id, count(*) AS n FROM labelled GROUP BY comparison_id
),
hit AS (
  SELECT comparison_id, category_id FROM labelled WHERE category_id IS NOT NULL
  UNION ALL
  SELECT h.comparison_id, k.parent_id
  FROM labelled AS h JOIN category AS k ON k.id = h.category_id
  WHERE k.parent_id IS NOT NULL
),
counted AS (
  SELECT comparison_id, category_id, count(*) AS n FROM hit GROUP BY comparison_id, category_id
)"""

_BASE_RATE = (
    with_tables(SETTING, VERDICT, _IN_FORCE, _LABELLED)
    + """
SELECT c.name AS comparison, k.slug AS category, p.slug AS parent, k.level,
       coalesce(n.n, 0) AS control_count, t.n AS control_total,
       CAST(coalesce(n.n, 0) AS DOUBLE PRECISION) / t.n AS control_share
FROM setting AS s
JOIN comparison AS c ON c.id = s.comparison_id
JOIN total AS t ON t.comparison_id = s.comparison_id
JOIN category AS k ON k.taxonomy_version_id = s.taxonomy_version_id
LEFT JOIN category AS p ON p.id = k.parent_id
LEFT JOIN counted AS n ON n.comparison_id = s.comparison_id AND n.category_id = k.id
"""
)

EXPLANATION_SCORE = View(
    name="v_explanation_score",
    description="The newest score of each explanation by judge and method; also of shuffled ones.",
    columns={
        "crosscoder_id": "key of the crosscoder",
        "crosscoder": "its name",
        "latent_index": "number of the latent within it",
        "latent_id": "key of the latent on whose held-out evidence it was scored",
        "explanation_id": "key of the explanation",
        "explanation": "its text",
        "is_shuffled": "whether the text is another latent's explanation, put in as a control",
        "judge": "who scored it",
        "method": "detection or fuzzing",
        "balanced_accuracy": "mean of the rates right on positives and on negatives; 0.5 = chance",
        "ci_low": "lower end of its 95 % interval",
        "ci_high": "upper end of its 95 % interval",
        "n_asked": "examples put to the judge",
        "n_parsed": "examples with a usable answer",
        "n_positive": "of these, examples on which it fires or whose marks are right",
        "n_negative": "of these, the others",
        "n_true_positive": "positive examples that the judge called so",
        "n_true_negative": "negative examples that the judge called so",
        "reason": "why the balanced accuracy is undefined; NULL where it is not",
        "run_id": "run that wrote the score",
    },
    select=_SCORE,
)
CONTROL_CATEGORY = View(
    name="v_control_category",
    description="Base rates: categories of latents that are specific to no side.",
    columns={
        "comparison": "name of the comparison whose specific latents they match in density",
        "category": "slug of the category",
        "parent": "slug of its parent; NULL for a parent itself",
        "level": LEVEL,
        "control_count": "control latents in the category, by the judge in force",
        "control_total": "control latents with the outcome assigned or none",
        "control_share": "control_count / control_total",
    },
    select=_BASE_RATE,
)
VIEWS = (EXPLANATION_SCORE, CONTROL_CATEGORY)
