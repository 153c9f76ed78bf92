"""The view of how far judges agree with each other, and each judge with itself.

Krippendorff's alpha for nominal data (K. Krippendorff, Computing Krippendorff's Alpha-Reliability,
2011), as `labeler.labeling.agreement` computes it, which adds the interval.
"""

from __future__ import annotations

from labeler.store.outcomes import ANSWERS, sql_list
from labeler.store.view_definitions.base import MEMBER, SETTING, VERDICT, View, with_tables

_ANSWERS = f"""
latent_in AS (
  SELECT DISTINCT comparison_id, latent_id FROM member
),
judged AS (
  SELECT s.comparison_id, v.latent_id, v.judge_id, coalesce(k.slug, v.outcome) AS answer
  FROM setting AS s
  JOIN latent_in AS m ON m.comparison_id = s.comparison_id
  JOIN verdict AS v
    ON v.latent_id = m.latent_id AND v.taxonomy_version_id = s.taxonomy_version_id
  LEFT JOIN judge_label_category AS c ON c.judge_label_id = v.id AND c.rank = 1
  LEFT JOIN category AS k ON k.id = c.category_id
),
sampled AS (
  SELECT s.comparison_id, a.latent_id, a.judge_id, a.sample, coalesce(k.slug, a.outcome) AS answer
  FROM setting AS s
  JOIN latent_in AS m ON m.comparison_id = s.comparison_id
  JOIN label_sample AS a
    ON a.latent_id = m.latent_id AND a.taxonomy_version_id = s.taxonomy_version_id
  LEFT JOIN category AS k ON k.id = a.category_id
  WHERE a.outcome IN {sql_list(ANSWERS)} AND NOT EXISTS (
    SELECT 1
    FROM label_sample AS later
    WHERE later.latent_id = a.latent_id AND later.taxonomy_version_id = a.taxonomy_version_id
      AND later.judge_id = a.judge_id AND later.sample = a.sample AND later.id > a.id
      AND later.outcome IN {sql_list(ANSWERS)}
  )
),
rater_group AS (
  SELECT comparison_id, 0 AS judge_id, 'judges' AS raters FROM setting
  UNION ALL
  SELECT s.comparison_id, j.id, 'samples of ' || j.name
  FROM setting AS s
  JOIN judge AS j ON EXISTS (
    SELECT 1
    FROM label_sample AS a
    WHERE a.judge_id = j.id AND a.taxonomy_version_id = s.taxonomy_version_id
  )
),
answer AS (
  SELECT comparison_id, 0 AS judge_id, latent_id, judge_id AS rater, answer FROM judged
  UNION ALL
  SELECT comparison_id, judge_id, latent_id, sample, answer FROM sampled
  UNION ALL
  SELECT comparison_id, judge_id, latent_id, 0, answer
  FROM judged
  WHERE EXISTS (
    SELECT 1
    FROM sampled
    WHERE sampled.comparison_id = judged.comparison_id
      AND sampled.judge_id = judged.judge_id AND sampled.latent_id = judged.latent_id
  )
)"""
"""By group of raters (judge_id 0: all judges) and latent; the label is a judge's sample 0."""

_TALLIES = """
rated AS (
  SELECT comparison_id, judge_id, count(DISTINCT rater) AS n_raters
  FROM answer
  GROUP BY comparison_id, judge_id
),
tally AS (
  SELECT comparison_id, judge_id, latent_id, answer, count(*) AS n,
         sum(count(*)) OVER (PARTITION BY comparison_id, judge_id, latent_id) AS n_answers
  FROM answer
  GROUP BY comparison_id, judge_id, latent_id, answer
),
observed AS (
  SELECT comparison_id, judge_id, count(DISTINCT latent_id) AS n_latents, sum(n) AS n_answers,
         count(DISTINCT answer) AS n_categories,
         sum(CAST(n * (n - 1) AS DOUBLE PRECISION) / (n_answers - 1)) AS agreeing
  FROM tally
  WHERE n_answers > 1
  GROUP BY comparison_id, judge_id
),
by_category AS (
  SELECT comparison_id, judge_id, answer, sum(n) AS n
  FROM tally
  WHERE n_answers > 1
  GROUP BY comparison_id, judge_id, answer
),
expected AS (
  SELECT comparison_id, judge_id, sum(CAST(n * (n - 1) AS DOUBLE PRECISION)) AS same
  FROM by_category
  GROUP BY comparison_id, judge_id
)"""

_AGREEMENT = (
    with_tables(SETTING, MEMBER, VERDICT, _ANSWERS, _TALLIES)
    + """
SELECT c.name AS comparison, g.raters,
       CASE WHEN o.n_categories > 1 THEN
         1 - (1 - o.agreeing / o.n_answers)
           / (1 - e.same / (CAST(o.n_answers AS DOUBLE PRECISION) * (o.n_answers - 1)))
       END AS alpha,
       coalesce(o.n_latents, 0) AS n_latents, coalesce(o.n_answers, 0) AS n_answers,
       coalesce(r.n_raters, 0) AS n_raters, coalesce(o.n_categories, 0) AS n_categories,
       CASE WHEN coalesce(r.n_raters, 0) < 2 THEN 'fewer than two judges or samples'
            WHEN o.n_latents IS NULL THEN 'no latent has two answers'
            WHEN o.n_categories < 2 THEN 'all answers are the same category'
       END AS reason
FROM rater_group AS g
JOIN comparison AS c ON c.id = g.comparison_id
LEFT JOIN rated AS r ON r.comparison_id = g.comparison_id AND r.judge_id = g.judge_id
LEFT JOIN observed AS o ON o.comparison_id = g.comparison_id AND o.judge_id = g.judge_id
LEFT JOIN expected AS e ON e.comparison_id = g.comparison_id AND e.judge_id = g.judge_id
"""
)

VIEWS = (
    View(
        name="v_judge_agreement",
        description="How far judges, or several answers of one judge, agree on the categories.",
        columns={
            "comparison": "name of the comparison",
            "raters": "`judges`, or `samples of` a judge's name: its answers when asked again",
            "alpha": "Krippendorff's alpha, nominal: 1 = full agreement, 0 = as by chance; "
            "NULL = undefined",
            "n_latents": "latents with at least two answers; the others say nothing",
            "n_answers": "answers to these: primary category, none or uninterpretable",
            "n_raters": "judges or samples with an answer to any latent of the comparison",
            "n_categories": "different answers among n_answers",
            "reason": "why alpha is undefined; NULL where it is not",
        },
        select=_AGREEMENT,
    ),
)
