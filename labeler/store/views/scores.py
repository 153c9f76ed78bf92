"""Views that measure the judge: scores of explanations, control latents, and agreement.

Krippendorff's alpha for nominal data (K. Krippendorff, Computing Krippendorff's Alpha-Reliability,
2011), as `labeler.labeling.agreement` computes it, which adds the interval.
"""

from __future__ import annotations

from labeler.store.outcomes import ANSWERS, LABELLED, sql_list
from labeler.store.views.base import LEVEL, MEMBER, SETTING, VERDICT, View, with_tables

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

_TEST = """
SELECT x.id AS crosscoder_id, x.name AS crosscoder, l.latent_index, e.latent_id,
       e.id AS explanation_id, j.name AS judge, t.round, t.text AS explanation, t.is_chosen,
       t.verdict, t.responsiveness, t.purity, t.n_meant, t.n_meant_active, t.n_others,
       t.n_others_active, t.threshold, t.run_id
FROM explanation_test AS t
JOIN explanation AS e ON e.id = t.explanation_id
JOIN latent AS l ON l.id = e.latent_id
JOIN crosscoder AS x ON x.id = l.crosscoder_id
JOIN judge AS j ON j.id = t.judge_id
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
        "is_shuffled": "whether the text is another latent's explanation, added as a control",
        "judge": "who scored it",
        "method": "detection or fuzzing",
        "balanced_accuracy": "mean accuracy on positives and on negatives; 0.5 = chance",
        "ci_low": "lower end of its 95 % interval",
        "ci_high": "upper end of its 95 % interval",
        "n_asked": "examples that the judge was asked about",
        "n_parsed": "examples with a usable answer",
        "n_positive": "of these, examples on which it fires or whose marks are right",
        "n_negative": "of these, the others",
        "n_true_positive": "positive examples with the right answer",
        "n_true_negative": "negative examples with the right answer",
        "reason": "why the balanced accuracy is undefined; NULL where it is not",
        "run_id": "run that wrote the score",
    },
    select=_SCORE,
)
EXPLANATION_TEST = View(
    name="v_explanation_test",
    description="Explanations tested by experiment (`judge.revise`), a row for each round.",
    columns={
        "crosscoder_id": "key of the crosscoder",
        "crosscoder": "its name",
        "latent_index": "number of the latent within it",
        "latent_id": "key of the latent",
        "explanation_id": "key of the explanation that came out of all rounds",
        "judge": "who wrote the texts and the explanations",
        "round": "number of the round, from 0",
        "explanation": "text of the explanation that was tested in it",
        "is_chosen": "whether this is the explanation that was kept",
        "verdict": "`holds`; `revised`: it failed and another was tested; `refuted`: it failed in "
        "the last round",
        "responsiveness": "share of the texts meant to activate the latent that do",
        "purity": "share of the activating texts that were meant to; NULL where none activates",
        "n_meant": "texts meant to activate it of which something was read",
        "n_meant_active": "of these, those that activate it",
        "n_others": "texts meant not to activate it of which something was read",
        "n_others_active": "of these, those that activate it",
        "threshold": "activation above which a text activates the latent",
        "run_id": "run that wrote the row",
    },
    select=_TEST,
)
CONTROL_CATEGORY = View(
    name="v_control_category",
    description="Base rates: categories of control latents, which both models share.",
    columns={
        "comparison": "name of the comparison whose specific latents they match in density",
        "category": "slug of the category",
        "parent": "slug of its parent; NULL for a parent itself",
        "level": LEVEL,
        "control_count": "control latents in the category, by the active judge",
        "control_total": "control latents with the outcome assigned or none",
        "control_share": "control_count / control_total",
    },
    select=_BASE_RATE,
)


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

_AGREEMENT_VIEWS = (
    View(
        name="v_judge_agreement",
        description="How far judges, or several answers of one judge, agree on the categories.",
        columns={
            "comparison": "name of the comparison",
            "raters": "`judges`, or `samples of` a judge's name: its answers when asked again",
            "alpha": "Krippendorff's alpha, nominal: 1 = full agreement, 0 = as by chance; "
            "NULL = undefined",
            "n_latents": "latents with at least two answers; only these count",
            "n_answers": "answers to these: primary category, none or uninterpretable",
            "n_raters": "judges or samples with an answer to any latent of the comparison",
            "n_categories": "different answers among n_answers",
            "reason": "why alpha is undefined; NULL where it is not",
        },
        select=_AGREEMENT,
    ),
)
VIEWS = (EXPLANATION_SCORE, EXPLANATION_TEST, CONTROL_CATEGORY, *_AGREEMENT_VIEWS)
