"""Views of counts and change, and of the newest report's checks of a change."""

from __future__ import annotations

from labeler.store.outcomes import LABELLED, sql_list
from labeler.store.views.base import IS_LEAF, LEAF, LEVEL, SETTING, View, with_tables

_TOTAL = f"""
total AS (
  SELECT comparison_id,
         sum(CASE WHEN side = 'target' THEN 1 ELSE 0 END) AS target,
         sum(CASE WHEN side = 'reference' THEN 1 ELSE 0 END) AS reference
  FROM effective_label
  WHERE outcome IN {sql_list(LABELLED)}
  GROUP BY comparison_id
)"""

_HIT = """
hit AS (
  SELECT comparison_id, side, latent_id, category_id
  FROM effective_label_category WHERE rank = 1
  UNION ALL
  SELECT ec.comparison_id, ec.side, ec.latent_id, k.parent_id
  FROM effective_label_category AS ec JOIN category AS k ON k.id = ec.category_id
  WHERE ec.rank = 1 AND k.parent_id IS NOT NULL
)"""
"""A latent has one primary category, so each lies once under it and once under its parent."""

_COUNTED = """
counted AS (
  SELECT comparison_id, category_id,
         sum(CASE WHEN side = 'target' THEN 1 ELSE 0 END) AS target,
         sum(CASE WHEN side = 'reference' THEN 1 ELSE 0 END) AS reference
  FROM hit
  GROUP BY comparison_id, category_id
)"""

_ROWS = f"""
counts AS (
  SELECT c.name AS comparison, k.slug AS category, p.slug AS parent, k.level,
         coalesce(n.target, 0) AS target_count, coalesce(t.target, 0) AS target_total,
         coalesce(n.reference, 0) AS reference_count, coalesce(t.reference, 0) AS reference_total,
         {IS_LEAF} AS is_leaf
  FROM setting AS s
  JOIN comparison AS c ON c.id = s.comparison_id
  JOIN category AS k ON k.taxonomy_version_id = s.taxonomy_version_id
  LEFT JOIN category AS p ON p.id = k.parent_id
  LEFT JOIN counted AS n ON n.comparison_id = s.comparison_id AND n.category_id = k.id
  LEFT JOIN total AS t ON t.comparison_id = s.comparison_id
),
shares AS (
  SELECT counts.*,
         CAST(target_count AS DOUBLE PRECISION) / NULLIF(target_total, 0) AS target_share,
         CAST(reference_count AS DOUBLE PRECISION) / NULLIF(reference_total, 0)
           AS reference_share
  FROM counts
)"""

_CHANGE = (
    with_tables(SETTING, _TOTAL, _HIT, _COUNTED, _ROWS)
    + """
SELECT comparison, category, parent, level, target_count, target_total, reference_count,
       reference_total, target_share, reference_share,
       CASE WHEN reference_count > 0 THEN 100 * (target_share / reference_share - 1) END
         AS percent_change,
       is_leaf
FROM shares
"""
)

_LATENTS = (
    with_tables(_HIT)
    + """
SELECT c.name AS comparison, k.slug AS category, count(*) AS n_latents,
       count(e.review_event_id) AS n_reviewed,
       CAST(count(e.review_event_id) AS DOUBLE PRECISION) / count(*) AS reviewed_share,
       max(l.n_seeds) AS n_seeds,
       CAST(sum(CASE WHEN l.p_reappear >= 0.5 THEN 1 ELSE 0 END) AS DOUBLE PRECISION)
         / NULLIF(count(l.p_reappear), 0) AS stable_share
FROM hit AS h
JOIN comparison AS c ON c.id = h.comparison_id
JOIN category AS k ON k.id = h.category_id
JOIN latent AS l ON l.id = h.latent_id
JOIN effective_label AS e
  ON e.comparison_id = h.comparison_id AND e.side = h.side AND e.latent_id = h.latent_id
GROUP BY c.name, k.slug
"""
)

_LATENTS_COLUMNS = {
    "n_reviewed": "of its latents, on either side: labels that are a reviewer's decision",
    "reviewed_share": "their share",
    "n_seeds": "crosscoders of other seeds that its latents were looked for in; NULL = one seed",
    "stable_share": "share of its latents that come again in at least half of them",
}

_STATISTIC_COLUMNS = {
    "category": "slug of the category",
    "parent": "slug of its parent; NULL for a parent itself",
    "level": LEVEL,
    "counting": "primary = primary categories only, any = every category of a latent",
    "weighting": "weight of a latent: none = 1, frequency = density, mass = density * mean, "
    "effect = its mean share of the output gap by attribution, stable = 1 where it comes again "
    "in half of the other seeds, else 0",
    "denominator": "labelled, assigned or isolated",
    "target_count": "latents of the target side in the category",
    "target_total": "latents of the target side in the denominator",
    "reference_count": "latents of the reference side in the category",
    "reference_total": "latents of the reference side in the denominator",
    "target_share": "target_count / target_total; of the weights where latents are weighted",
    "target_share_low": "lower end of its 95 % interval",
    "target_share_high": "upper end of its 95 % interval",
    "reference_share": "the same of the reference side",
    "reference_share_low": "lower end of its 95 % interval",
    "reference_share_high": "upper end of its 95 % interval",
    "percent_change": "100 * (target_share / reference_share - 1); NULL without a reference",
    "ci_low": "lower end of its 95 % interval, percent",
    "ci_high": "upper end, percent; NULL = infinite",
    "difference_points": "difference of the shares in percentage points",
    "difference_points_low": "lower end of its 95 % interval",
    "difference_points_high": "upper end of its 95 % interval",
    "p_value": "p of the test that both shares are equal",
    "q_value": "Benjamini-Hochberg over the categories of the same level",
    "verdict": "up, down, too few to say, or no evidence",
    "printed_change": "the change as the report prints it",
    "situation": "counted, on neither side, only on one side, ...: special cases of the counts",
    "test": "documents = randomisation over documents; fisher, boschloo; score = weighted shares",
    "target_effective": "equally weighted latents with the target's uncertainty",
    "reference_effective": "the same of the reference side",
    "detectable_rise": "smallest rise in percent that these counts could have shown; NULL = none",
    "detectable_fall": "smallest fall in percent; NULL = none",
    "family_p": "p that bounds one false call in the whole table; NULL without randomisation",
    "mean_shift": "mean strength shift of all labelled latents of the category, on a side or not",
    "mean_shift_low": "lower end of its 95 % interval",
    "mean_shift_high": "upper end of its 95 % interval",
    "mean_shift_q": "Benjamini-Hochberg q that it is 0, over the categories of the same level",
    "relative_shift": "mean_shift less the mean shift of all other labelled latents",
    "relative_shift_low": "lower end of its 95 % interval",
    "relative_shift_high": "upper end of its 95 % interval",
    "relative_shift_q": "Benjamini-Hochberg q that it is 0, over the categories of the same level",
    "weighted_shift": "relative_shift, each latent weighted by the sum of its squared activations",
    "scrambled_low": "lower bound of weighted_shift in 95 % of scrambled fine-tunes",
    "scrambled_high": "upper bound",
    "weighted_shift_q": "Benjamini-Hochberg q that weighted_shift is that of a scrambled fine-tune",
    "n_scrambled": "scrambled fine-tunes of the comparison; NULL = none",
    "n_shifted": "latents behind the shifts",
    "over_seeds": "training seeds that the row is over, their counts added up; NULL = one",
    "n_seeds_alike": "seeds whose own difference of shares has the row's sign",
    "n_shifts_alike": "seeds whose own relative_shift has the row's sign",
    "n_documents": "documents whose models the draws swapped; NULL without draws",
    "detectable_points": "smallest difference_points that so many documents show; NULL = none",
    "documents_needed": "documents that show such a change with 80 % power; NULL = none advised",
}

_EFFECT_COLUMNS = {
    "attribution": "share of the output gap that its latents close by first order; NULL = unknown",
    "attribution_control": "mean share of random latents, as many and as strong, by first order",
    "attribution_q": "Benjamini-Hochberg q of attribution's rank among them, over the categories",
    "restored": "share of the output gap that its latents restore where they are patched",
    "restored_low": "lower end of its 95 % interval over documents",
    "restored_high": "upper end",
    "restored_control": "mean share of random latents alike that were patched; NULL = none was",
    "restored_p": "rank of restored among them",
}
_EFFECT_SOURCES = {
    "attribution": "first_order",
    "attribution_control": "control_mean",
    "attribution_q": "q_value",
    "restored_control": "restored_control_mean",
}
"""Columns of category_effect that have another name here."""
_ANSWER_COLUMNS = {
    "answers_points": "change of the answers that show it, in percentage points; NULL = unknown",
    "answers_low": "lower end of its 95 % interval",
    "answers_high": "upper end",
    "answers_q": "its Benjamini-Hochberg q",
}
_ANSWER_SOURCES = {
    "answers_points": "difference_points",
    "answers_low": "difference_low",
    "answers_high": "difference_high",
    "answers_q": "q_value",
}

_REPORTED_COLUMNS = {
    "comparison": "name of the comparison",
    **_STATISTIC_COLUMNS,
    "taxonomy_version": "name and version of the taxonomy the report used",
    "report_run_id": "run of the report",
    "computed_at": "when the counts were read, UTC",
    "is_stale": "an effective label changed after that",
    "is_leaf": LEAF,
}

_EVERY_WAY = f"""
SELECT c.name AS comparison, {", ".join(f"s.{name}" for name in _STATISTIC_COLUMNS)},
       t.name || ' ' || t.version AS taxonomy_version, s.report_run_id, s.computed_at,
       c.labels_changed_at > s.computed_at AS is_stale, {IS_LEAF} AS is_leaf{{more}}
FROM category_change_statistic AS s
JOIN (
  SELECT comparison_id, max(report_run_id) AS report_run_id
  FROM category_change_statistic
  GROUP BY comparison_id
) AS newest ON newest.comparison_id = s.comparison_id AND newest.report_run_id = s.report_run_id
JOIN comparison AS c ON c.id = s.comparison_id
JOIN taxonomy_version AS t ON t.id = s.taxonomy_version_id
LEFT JOIN category AS k
  ON k.taxonomy_version_id = s.taxonomy_version_id AND k.slug = s.category
"""
_SENSITIVITY = _EVERY_WAY.replace("{more}", ",\n       s.is_main")
_BESIDE = [
    *(f"e.{_EFFECT_SOURCES.get(name, name)} AS {name}" for name in _EFFECT_COLUMNS),
    *(f"b.{source} AS {name}" for name, source in _ANSWER_SOURCES.items()),
    *(f"m.{name}" for name in _LATENTS_COLUMNS),
]
_STATISTIC = (
    _EVERY_WAY.replace("{more}", f",\n       {', '.join(_BESIDE)}")
    + """LEFT JOIN latent_set AS ts ON ts.id = c.target_set_id
LEFT JOIN category_effect AS e
  ON e.comparison_id = c.id AND e.kind = 'category' AND e.name = s.category AND e.is_main
  AND e.target_model_id = ts.target_model_id AND e.reference_model_id = ts.against_model_id
LEFT JOIN v_category_behaviour AS b ON b.comparison = c.name AND b.category = s.category
LEFT JOIN v_category_latents AS m ON m.comparison = c.name AND m.category = s.category
WHERE s.is_main
"""
)
"""With what else is known of each category; the effect is that towards the target."""

CATEGORY_CHANGE = View(
    name="v_category_change",
    description="Counts, shares and percentage change of every category of the active version.",
    columns={
        "comparison": "name of the comparison",
        "category": "slug of the category",
        "parent": "slug of its parent; NULL for a parent itself",
        "level": f"{LEVEL}; a group counts its leaves' latents too",
        "target_count": "latents of the target side whose primary category it is",
        "target_total": "latents of the target side with outcome assigned or none",
        "reference_count": "latents of the reference side whose primary category it is",
        "reference_total": "latents of the reference side with outcome assigned or none",
        "target_share": "target_count / target_total; NULL without labelled latents",
        "reference_share": "reference_count / reference_total; NULL without labelled latents",
        "percent_change": "100 * (target_share / reference_share - 1); NULL without a reference",
        "is_leaf": LEAF,
    },
    select=_CHANGE,
)
CATEGORY_LATENTS = View(
    name="v_category_latents",
    description="Of the latents of each category: how many are reviewed, how many come again.",
    columns={
        "comparison": "name of the comparison",
        "category": "slug of the category; a group has its leaves' latents",
        "n_latents": "latents on either side whose primary category it is",
        **_LATENTS_COLUMNS,
    },
    select=_LATENTS,
)
CATEGORY_CHANGE_STATISTIC = View(
    name="v_category_change_statistic",
    description="The newest report's main statistics of each comparison, and what stands beside.",
    columns={**_REPORTED_COLUMNS, **_EFFECT_COLUMNS, **_ANSWER_COLUMNS, **_LATENTS_COLUMNS},
    select=_STATISTIC,
)
CATEGORY_CHANGE_SENSITIVITY = View(
    name="v_category_change_sensitivity",
    description="The same in every way of counting: counting x weighting x denominator.",
    columns={**_REPORTED_COLUMNS, "is_main": "whether this is the report's main way of counting"},
    select=_SENSITIVITY,
)
_SEED_COLUMNS = {
    "seed": "number of the training seed; 0 = the one that pages show",
    "category": "slug of the category",
    "parent": "slug of its parent; NULL for a parent itself",
    "level": LEVEL,
    "target_count": "latents of the seed's target side in the category",
    "target_total": "latents of its target side in the denominator",
    "reference_count": "latents of its reference side in the category",
    "reference_total": "latents of its reference side in the denominator",
    "percent_change": "100 * (target share / reference share - 1); NULL without a reference",
    "p_value": "p by this seed alone",
    "q_value": "Benjamini-Hochberg over the categories of the same level, by this seed alone",
    "verdict": "up, down, too few to say, or no evidence, by this seed alone",
    "n_shifted": "its labelled latents of the category whose strength shift is known",
    "relative_shift": "their mean strength shift less that of all its other labelled latents",
    "relative_shift_q": "Benjamini-Hochberg q that it is 0, by this seed alone",
}
_SEED = f"""
SELECT c.name AS comparison, {", ".join(f"s.{name}" for name in _SEED_COLUMNS)}, s.report_run_id
FROM seed_change AS s
JOIN (
  SELECT comparison_id, max(report_run_id) AS report_run_id
  FROM category_change_statistic
  GROUP BY comparison_id
) AS newest ON newest.comparison_id = s.comparison_id AND newest.report_run_id = s.report_run_id
JOIN comparison AS c ON c.id = s.comparison_id
"""
SEED_CHANGE = View(
    name="v_seed_change",
    description="The newest report's change by each training seed alone; empty with one seed.",
    columns={
        "comparison": "name of the comparison by the first seed",
        **_SEED_COLUMNS,
        "report_run_id": "run of the report",
    },
    select=_SEED,
)
VIEWS = (
    CATEGORY_CHANGE,
    CATEGORY_LATENTS,
    CATEGORY_CHANGE_STATISTIC,
    SEED_CHANGE,
    CATEGORY_CHANGE_SENSITIVITY,
)


_NEWEST = """
JOIN (
  SELECT comparison_id, max(report_run_id) AS report_run_id
  FROM {table}
  GROUP BY comparison_id
) AS newest ON newest.comparison_id = {alias}.comparison_id
  AND newest.report_run_id = {alias}.report_run_id
JOIN comparison AS c ON c.id = {alias}.comparison_id
"""

_ERRORS = ("hits", "positives", "rejections", "negatives")

_CORRECTION_COLUMNS = {
    "category": "slug of the category",
    "parent": "slug of its parent; NULL for a parent itself",
    "level": LEVEL,
    "target_share": "share of the target side without the judge's errors (PPI++)",
    "target_share_low": "lower end of its 95 % interval",
    "target_share_high": "upper end",
    "reference_share": "the same of the reference side",
    "reference_share_low": "lower end of its 95 % interval",
    "reference_share_high": "upper end",
    "target_judge_share": "share by the judge's labels alone",
    "reference_judge_share": "share by the judge's labels alone",
    "percent_change": "corrected change; NULL where the reference share is 0",
    "ci_low": "lower end of its 95 % interval, percent",
    "ci_high": "upper end, percent; NULL = infinite",
    "p_value": "p that the corrected change is 0",
    "q_value": "Benjamini-Hochberg over the categories of the same level",
    **{
        f"{side}_{part}": f"{words}, {side} side"
        for side in ("target", "reference")
        for part, words in zip(
            _ERRORS,
            (
                "reviewed latents of the category that the judge finds",
                "reviewed latents of the category",
                "reviewed latents outside it that the judge keeps out",
                "reviewed latents outside it",
            ),
            strict=True,
        )
    },
    "alike_p": "p that the judge has the same error rates on both sides",
    "alike_q": "Benjamini-Hochberg over the categories of the same level",
    "target_rogan_gladen": "cross-check of the target share by Rogan and Gladen; NULL = unusable",
    "reference_rogan_gladen": "the same of the reference side",
}

_CORRECTION = f"""
SELECT c.name AS comparison, {", ".join(f"k.{name}" for name in _CORRECTION_COLUMNS)},
       s.estimand, s.denominator, s.report_run_id, s.computed_at,
       c.labels_changed_at > s.computed_at AS is_stale
FROM judge_correction AS s
{_NEWEST.format(table="judge_correction", alias="s")}
JOIN category_correction AS k ON k.judge_correction_id = s.id
"""

_SWEEP_COLUMNS = {
    "category": "slug of the category",
    "swept": "quantity that the threshold applies to",
    "threshold": "latents up to this threshold are counted; the study's is the largest",
    "target_count": "latents of the target side in the category",
    "target_total": "latents of the target side in the denominator",
    "reference_count": "latents of the reference side in the category",
    "reference_total": "latents of the reference side in the denominator",
    "percent_change": "100 * (target_share / reference_share - 1); NULL without a reference",
    "ci_low": "lower end of its 95 % interval, percent",
    "ci_high": "upper end, percent; NULL = infinite",
    "stability": "stable, unstable (the sign changes at a stricter threshold) or too few to say",
}

_SWEEP = f"""
SELECT c.name AS comparison, {", ".join(f"s.{name}" for name in _SWEEP_COLUMNS)},
       s.report_run_id, s.computed_at, c.labels_changed_at > s.computed_at AS is_stale
FROM category_sweep AS s
{_NEWEST.format(table="category_sweep", alias="s")}
"""

_WHEN = {
    "report_run_id": "run of the report",
    "computed_at": "when its counts were read, UTC",
    "is_stale": "an effective label changed after that",
}

ROBUSTNESS_VIEWS = (
    View(
        name="v_category_correction",
        description="The newest report's changes, corrected for the judge's errors.",
        columns={
            "comparison": "name of the comparison",
            **_CORRECTION_COLUMNS,
            "estimand": "superpopulation, or finite_population",
            "denominator": "labelled, assigned or isolated",
            **_WHEN,
        },
        select=_CORRECTION,
    ),
    View(
        name="v_category_sweep",
        description="The newest report's changes at stricter isolation thresholds.",
        columns={"comparison": "name of the comparison", **_SWEEP_COLUMNS, **_WHEN},
        select=_SWEEP,
    ),
)
