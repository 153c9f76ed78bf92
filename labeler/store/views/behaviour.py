"""Views of what the models do on held-out prompts."""

from __future__ import annotations

from labeler.store.views.base import View

_NEWEST_LABELS = "(SELECT max(run_id) FROM behaviour_label)"

_ANSWER = f"""
SELECT a.prompt_id, a.model, a.sample, l.category, a.prompt, a.text AS answer, a.is_finished,
       l.outcome, l.classified_by, l.reason, l.judge_call_id, l.run_id
FROM behaviour_label AS l
JOIN behaviour_answer AS a ON a.id = l.behaviour_answer_id
WHERE l.run_id = {_NEWEST_LABELS}
"""

_COLUMNS = {
    "target_model": "name of the target model, as v_behaviour_answer has it",
    "reference_model": "name of the reference model",
    "category": "slug of the category, or of a group: an answer shows it if it shows any of its",
    "n_prompts": "prompts of which every answer of both models is classified; only these count",
    "n_left_out": "the other prompts of the category",
    "n_samples": "answers of each model to a prompt",
    "n_more": "prompts on which the target shows the behaviour in more answers",
    "n_less": "prompts on which it shows it in fewer",
    "target_share": "share of the target's answers that show it; NULL without prompts",
    "reference_share": "the same of the reference",
    "difference_points": "target_share less reference_share, in percentage points",
    "difference_low": "lower end of its 95 % interval",
    "difference_high": "upper end",
    "p_value": "p of the randomisation of the models within prompts; one sample: McNemar's exact",
    "q_value": "Benjamini-Hochberg over the categories; over the groups for a group",
    "verdict": "up, down, too few to say, or no evidence",
}

_CHANGE = f"""
SELECT c.name AS comparison, {", ".join(f"s.{name}" for name in _COLUMNS)},
       t.name || ' ' || t.version AS taxonomy_version, s.run_id
FROM category_behaviour AS s
JOIN (
  SELECT comparison_id, max(run_id) AS run_id FROM category_behaviour GROUP BY comparison_id
) AS newest ON newest.comparison_id = s.comparison_id AND newest.run_id = s.run_id
JOIN comparison AS c ON c.id = s.comparison_id
JOIN taxonomy_version AS t ON t.id = s.taxonomy_version_id
"""

VIEWS = (
    View(
        name="v_category_behaviour",
        description="Paired change of each category's behaviour on held-out prompts, newest run.",
        columns={
            "comparison": "name of the comparison",
            **_COLUMNS,
            "taxonomy_version": "name and version of the taxonomy by which answers were classified",
            "run_id": "run of the stage `behaviour`",
        },
        select=_CHANGE,
    ),
    View(
        name="v_behaviour_answer",
        description="Answers to the held-out prompts with their class, of the newest run.",
        columns={
            "prompt_id": "id of the prompt in the prompt file",
            "model": "name of the model",
            "sample": "number of the answer, from 0",
            "category": "slug of the category whose behaviour was looked for",
            "prompt": "the user's last words",
            "answer": "the model's answer; NULL where it gave none",
            "is_finished": "false where the answer was cut at max_new_tokens",
            "outcome": "assigned = shows the behaviour, none = does not; else why it is not known",
            "classified_by": "check = code, judge = the study's judge, nobody = there is no answer",
            "reason": "the check, or why it is not known",
            "judge_call_id": "the judge's call; NULL for a check",
            "run_id": "run of the stage `behaviour`",
        },
        select=_ANSWER,
    ),
)
