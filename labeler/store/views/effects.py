"""Views of what latents and categories do to the output."""

from __future__ import annotations

from labeler.store.views.base import View

_DIRECTION = {
    "target": "model whose output is explained",
    "reference": "model from whose activations it is reached",
}
_MODELS = """
JOIN subject_model AS t ON t.id = e.target_model_id
JOIN subject_model AS r ON r.id = e.reference_model_id"""

_LATENT_COLUMNS = {
    "attribution": "share of the output gap that the latent closes by first order; NULL = no gap",
    "attribution_low": "lower end of its 95 % interval over documents",
    "attribution_high": "upper end",
    "magnitude": "its share of all latents' sum of f^2 ||d^target - d^reference||^2",
    "rank": "place by attribution, largest first",
    "equivalence": "causal equivalence: correlation over the documents in which it fires of the KL "
    "that its ablation makes in the two models; NULL = not ablated, or in fewer than 8 documents",
}
_SET_COLUMNS = {
    "kind": "category, side, top or all",
    "name": "slug of the category, side, or what the set is called",
    "scope": "tokens: assistant, answer_start (first ten of each answer) or content",
    "is_main": "whether attribution and controls belong to this scope",
    "n_latents": "latents of the set that are in the crosscoder",
    "n_documents": "documents read",
    "n_tokens": "tokens of the scope",
    "gap": "output gap, KL(p_target || p of the reference's activations), nats per token",
    "restored": "share of the gap that the set restores, added to the reference's activations",
    "restored_low": "lower end of its 95 % interval over documents",
    "restored_high": "upper end",
    "carried": "share of the gap that arises when it is taken from the target's activations",
    "carried_low": "lower end of its 95 % interval over documents",
    "carried_high": "upper end",
    "first_order": "share of the gap by attribution",
    "first_order_low": "lower end of its 95 % interval over documents",
    "first_order_high": "upper end",
    "n_controls": "random sets as many and as near in magnitude as can be; 0 = there are none",
    "control_mean": "their mean share by attribution",
    "control_low": "their 5 % quantile",
    "control_high": "their 95 % quantile",
    "p_value": "rank of first_order among them; NULL unless they are alike in magnitude",
    "q_value": "Benjamini-Hochberg over the categories of a direction",
    "n_patched_controls": "controls that were patched as well",
    "restored_control_mean": "the share that they restore, mean",
    "restored_control_low": "their 5 % quantile",
    "restored_control_high": "their 95 % quantile",
    "restored_p": "rank of restored among them",
    "carried_control_mean": "the share that they carry, mean",
    "carried_control_low": "their 5 % quantile",
    "carried_control_high": "their 95 % quantile",
    "carried_p": "rank of carried among them",
    "control_magnitude": "mean magnitude of the controls as a share of the set's; alike = 0.9 to "
    "1.1",
    "on_half": "whether only the documents count by which the set was not chosen",
}

VIEWS = (
    View(
        name="v_latent_effect",
        description="First-order effect on the output of every latent that fires in the text read.",
        columns={
            "latent_id": "latent",
            "crosscoder_id": "its crosscoder",
            "latent_index": "its place in the dictionary",
            **_DIRECTION,
            **_LATENT_COLUMNS,
            "run_id": "run of the stage `effect`",
        },
        select=f"""
SELECT e.latent_id, l.crosscoder_id, l.latent_index, t.name AS target, r.name AS reference,
       {", ".join(f"e.{name}" for name in _LATENT_COLUMNS)}, e.run_id
FROM latent_effect AS e
JOIN latent AS l ON l.id = e.latent_id{_MODELS}
""",
    ),
    View(
        name="v_category_effect",
        description="Effect on the output of each category's latents, of the sides, and of all.",
        columns={
            "comparison": "name of the comparison",
            **_DIRECTION,
            **_SET_COLUMNS,
            "run_id": "run of the stage `effect`",
        },
        select=f"""
SELECT c.name AS comparison, t.name AS target, r.name AS reference,
       {", ".join(f"e.{name}" for name in _SET_COLUMNS)}, e.run_id
FROM category_effect AS e
JOIN comparison AS c ON c.id = e.comparison_id{_MODELS}
""",
    ),
)
