"""Views of the newest report's checks: correction of judge errors, threshold sweeps."""

from __future__ import annotations

from labeler.store.view_definitions.base import LEVEL, View

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

VIEWS = (
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
