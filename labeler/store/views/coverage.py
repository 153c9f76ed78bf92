"""Views of what was done: how many latents are labelled, and the runs of the stages."""

from __future__ import annotations

from labeler.store.outcomes import LABELLED, OUTCOMES, sql_list
from labeler.store.views.base import View

_COUNTS = ",\n       ".join(
    f"count(CASE WHEN e.outcome = '{each.name}' THEN 1 END) AS \"{each.name}\"" for each in OUTCOMES
)
_COVERAGE = f"""
WITH place AS (
  SELECT c.id AS comparison_id, c.name AS comparison, sides.side
  FROM comparison AS c
  CROSS JOIN (SELECT 'target' AS side UNION ALL SELECT 'reference' AS side) AS sides
)
SELECT p.comparison, p.side,
       count(e.latent_id) AS isolated,
       count(CASE WHEN e.outcome IN {sql_list(LABELLED)} THEN 1 END) AS labelled,
       {_COUNTS},
       count(e.review_event_id) AS reviewed
FROM place AS p
LEFT JOIN effective_label AS e ON e.comparison_id = p.comparison_id AND e.side = p.side
GROUP BY p.comparison, p.side
"""

_RUN = """
SELECT id AS run_id, kind, status, started_at, finished_at, config_sha256, code_version FROM run
"""

COVERAGE = View(
    name="v_coverage",
    description="How many latents of each side are labelled, and how.",
    columns={
        "comparison": "name of the comparison",
        "side": "target or reference",
        "isolated": "latents of the side's set",
        "labelled": "assigned or none: the denominator of the shares",
        **{each.name: each.meaning for each in OUTCOMES},
        "reviewed": "latents whose label is a reviewer's decision",
    },
    select=_COVERAGE,
)
RUN = View(
    name="v_run",
    description="Every run of a stage.",
    columns={
        "run_id": "key of the run",
        "kind": "stage",
        "status": "running, done, failed or interrupted",
        "started_at": "UTC",
        "finished_at": "UTC; NULL while it runs",
        "config_sha256": "hash of the config it ran with",
        "code_version": "version of difflens",
    },
    select=_RUN,
)
VIEWS = (COVERAGE, RUN)
