"""The schema of difflens 0.1.0.

Revision: 0.1.0
Revises: nothing

Frozen: a later change of a table is a further migration. Views and triggers belong to no
migration; the product makes them after the last one.

How to read a table: columns in their order, then keys, checks and indexes. A name that ends in
`?` may be NULL. Every table has an integer key `id` unless it names its `primary` columns.
`link("run_id", "parent_id?: category")` refers to run.id and category.id.
"""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa
from alembic import op

revision = "0.1.0"
down_revision = None
branch_labels = None
depends_on = None

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
Columns = list[sa.Column]
Tables = dict[str, tuple[Columns | sa.schema.SchemaItem, ...]]


def upgrade() -> None:
    schema().create_all(op.get_bind(), checkfirst=False)


def downgrade() -> None:
    schema().drop_all(op.get_bind(), checkfirst=False)


def schema() -> sa.MetaData:
    """Every table; the order in which they are made follows from their links."""
    found = sa.MetaData(naming_convention=NAMES)
    for part in (runs, taxonomies, latents, judging, measures_of_judges, review, reports):
        for name, items in part().items():
            parts = [
                each for item in items for each in (item if isinstance(item, list) else [item])
            ]
            if not any(isinstance(each, sa.PrimaryKeyConstraint) for each in parts):
                parts.insert(0, sa.Column("id", sa.Integer, primary_key=True))
            sa.Table(name, found, *parts)
    return found


# Formatted by hand: the formatter's line for every name would hide the tables.
# fmt: off


def runs() -> Tables:
    """Runs of stages, and what the models read."""
    return {
        "run": (
            string(32, "kind", "status"), json("config"),
            string(64, "config_sha256", "stage_key?", "code_version"),
            time("started_at", "finished_at?"), link("parent_run_id?: run"), json("result?"),
            index("kind", "stage_key"),
        ),
        "subject_model": (
            string(200, "name"), string(64, "fingerprint"), text("path?", "adapter?"),
            string(200, "revision?"), integer("n_layers?", "d_model?"), time("created_at"),
            unique("name", "fingerprint"),
        ),
        "corpus": (
            string(200, "name"), string(64, "sha256"), text("path?"),
            integer("n_documents", "n_tokens?"), time("created_at"),
            unique("sha256"),
        ),
    }


def taxonomies() -> Tables:
    """Taxonomy versions, their categories, and how one version maps to the next."""
    return {
        "taxonomy_version": (
            string(200, "name"), string(64, "version", "sha256"), flag("frozen"),
            link("parent_version_id?: taxonomy_version"), text("note?"), time("created_at"),
            unique("sha256"),
        ),
        "category": (
            link("taxonomy_version_id"), string(200, "slug"), link("parent_id?: category"),
            integer("level"), string(200, "name"),
            text("definition", "include_when", "exclude_when"), json("prototypes"),
            integer("position"),
            check("level", "level IN (1, 2)"),
            check("slug_not_reserved", "slug NOT IN ('none', 'uninterpretable')"),
            unique("taxonomy_version_id", "slug"),
        ),
        "category_mapping": (
            link("from_category_id: category", "to_category_id?: category"), string(16, "kind"),
            text("note?"), time("created_at"),
            unique("from_category_id", "to_category_id"),
        ),
    }


def latents() -> Tables:
    """Crosscoders, their latents, scaling, latent sets, comparisons, and evidence."""
    return {
        "crosscoder": (
            string(300, "name"), string(64, "sha256?"), link("run_id?", "corpus_id?"),
            text("path?"), integer("n_latents?"), json("config?"), time("created_at"),
            unique("name"),
        ),
        "crosscoder_model": (
            link("crosscoder_id"), integer("position"), link("subject_model_id"),
            primary("crosscoder_id", "position"), unique("crosscoder_id", "subject_model_id"),
        ),
        "latent": (
            link("crosscoder_id"), integer("latent_index"), number("density?"),
            integer("n_documents?"), number("max_activation?", "mean_activation?"),
            unique("crosscoder_id", "latent_index"),
        ),
        "latent_scaling": (
            link(
                "latent_id", "target_model_id: subject_model", "reference_model_id: subject_model",
            ),
            number(
                "delta_norm?", "nu_error?", "nu_error_low?", "nu_error_high?", "nu_reconstruction?",
                "nu_reconstruction_low?", "nu_reconstruction_high?",
            ),
            integer("n_active?", "n_documents?"), flag("is_flagged"),
            check("two_models", "target_model_id <> reference_model_id"),
            unique(
                "latent_id", "target_model_id", "reference_model_id", name="uq_latent_scaling_pair",
            ),
        ),
        "latent_set": (
            string(300, "name"),
            link(
                "crosscoder_id?", "target_model_id?: subject_model",
                "against_model_id?: subject_model",
            ),
            string(32, "rule"), json("rule_params"), text("message?"), link("run_id"),
            time("created_at"),
            index("name"),
        ),
        "latent_set_member": (
            link("latent_set_id", "latent_id"), integer("rank?"), number("score?"),
            primary("latent_set_id", "latent_id"), index("latent_id"),
        ),
        "comparison": (
            string(200, "name"), link("target_set_id: latent_set", "reference_set_id: latent_set"),
            time("created_at", "labels_changed_at"),
            check("two_sets", "target_set_id <> reference_set_id"), unique("name"),
            index("reference_set_id"), index("target_set_id"),
        ),
        "comparison_setting": (
            link("comparison_id", "taxonomy_version_id", "judge_id"), time("created_at"),
            index("comparison_id"),
        ),
        "evidence_document": (
            link("latent_id"), string(300, "document_id"), string(16, "split"),
            primary("latent_id", "document_id"), unique("latent_id", "document_id", "split"),
        ),
        "evidence": (
            link("run_id", "latent_id"), string(300, "document_id"), string(16, "split", "kind"),
            integer("quantile?", "start"), json("tokens", "token_ids", "roles", "activations"),
            number("max_activation"),
            links_together(
                "evidence_document", "latent_id", "document_id", "split", name="fk_evidence_split",
            ),
            index("latent_id", "run_id"),
        ),
    }


def judging() -> Tables:
    """Prompts, judges, their calls, and the explanations and labels they gave."""
    return {
        "prompt": (
            string(64, "sha256"), string(200, "name"), text("text"),
            unique("sha256"),
        ),
        "judge": (
            string(200, "name"), string(300, "model"), string(32, "endpoint_kind"), json("params"),
            string(64, "params_sha256"), time("created_at"),
            unique("name", "model", "endpoint_kind", "params_sha256"),
        ),
        "judge_parameters": (
            link("judge_id", "run_id"), json("parameters"), time("created_at"),
            index("judge_id"),
        ),
        "judge_call": (
            link("judge_id"), string(64, "request_sha256"), integer("sample", "attempt"),
            string(16, "stage"), link("run_id", "latent_id?", "prompt_id?"), string(32, "status"),
            text("raw?"), json("parsed?"), text("error?"), number("latency_s?"),
            integer("prompt_tokens?", "completion_tokens?"), time("created_at"),
            unique("judge_id", "request_sha256", "sample", "attempt"),
            index("latent_id"), index("run_id"),
        ),
        "work_item": (
            link("run_id"), string(16, "stage"), string(200, "item_key"), link("latent_id?"),
            string(16, "status"), string(200, "claimed_by?"), time("claimed_until?"),
            unique("stage", "item_key"), index("run_id", "status"),
        ),
        "explanation": (
            link("run_id", "latent_id", "judge_id", "judge_call_id?"), text("text"),
            flag("interpretable"), number("confidence?"), flag("is_control"), time("created_at"),
            index("latent_id", "judge_id"), index("run_id"),
        ),
        "explanation_score": (
            link("run_id", "explanation_id", "judge_id"), string(16, "method"),
            number("balanced_accuracy?", "ci_low?", "ci_high?"),
            integer(
                "n_asked", "n_parsed", "n_positive?", "n_negative?", "n_true_positive?",
                "n_true_negative?",
            ),
            text("reason?"), time("created_at"),
            index("explanation_id"),
        ),
        "judge_label": (
            link(
                "run_id", "latent_id", "judge_id", "taxonomy_version_id", "explanation_id?",
                "judge_call_id?", "carried_from_id?: judge_label",
            ),
            string(16, "outcome"), number("confidence?"), flag("is_control"), time("created_at"),
            index("latent_id", "taxonomy_version_id", "judge_id"), index("run_id"),
        ),
        "judge_label_category": (
            link("judge_label_id"), integer("rank"), link("category_id"), number("confidence?"),
            text("quote?"), flag("quote_found?"),
            primary("judge_label_id", "rank"), unique("judge_label_id", "category_id"),
        ),
    }


def measures_of_judges() -> Tables:
    """What measures a judge: calls behind a score, shuffled explanations, controls, samples."""
    return {
        "score_call": (
            link("explanation_score_id", "judge_call_id"),
            primary("explanation_score_id", "judge_call_id"), index("judge_call_id"),
        ),
        "shuffled_explanation": (
            link("explanation_id", "source_explanation_id: explanation"),
            primary("explanation_id"), index("source_explanation_id"),
        ),
        "control_latent": (
            link("run_id", "comparison_id", "latent_id", "matched_latent_id: latent"),
            unique("comparison_id", "run_id", "latent_id"), index("latent_id"),
        ),
        "label_sample": (
            link(
                "run_id", "latent_id", "judge_id", "taxonomy_version_id", "explanation_id",
                "judge_call_id",
            ),
            integer("sample"), string(16, "outcome"), link("category_id?"), time("created_at"),
            unique(
                "latent_id", "judge_id", "taxonomy_version_id", "explanation_id", "sample",
                "judge_call_id", name="uq_label_sample_answer",
            ),
            index("latent_id", "taxonomy_version_id"),
        ),
    }


def review() -> Tables:
    """Decisions of reviewers, random draws for the blind audit, effective labels."""
    return {
        "review_event": (
            link("latent_id", "taxonomy_version_id"), string(200, "reviewer", "entered_by?"),
            integer("revision"), string(32, "act"), string(16, "action"), text("explanation_text?"),
            link(
                "based_on_judge_label_id?: judge_label", "restores_event_id?: review_event",
                "carried_from_id?: review_event",
            ),
            string(64, "reason?"), text("note?"), flag("was_blind"), string(16, "selection"),
            number("inclusion_prob?"), integer("elapsed_ms?"), time("created_at"),
            check(
                "accept_names_label", "action <> 'accept' OR based_on_judge_label_id IS NOT NULL",
            ),
            check(
                "inclusion_prob",
                "inclusion_prob IS NULL OR (inclusion_prob > 0 AND inclusion_prob <= 1)",
            ),
            check("restores_by_undo", "restores_event_id IS NULL OR action = 'undo'"),
            check("revision_positive", "revision >= 1"),
            unique(
                "latent_id", "taxonomy_version_id", "reviewer", "revision",
                name="uq_review_event_stream_revision",
            ),
            index("act"),
        ),
        "review_event_category": (
            link("review_event_id"), integer("rank"), link("category_id"),
            primary("review_event_id", "rank"), unique("review_event_id", "category_id"),
        ),
        "audit_draw": (
            link("comparison_id"), string(16, "side"), integer("seed", "n_drawn", "n_population"),
            string(200, "drawn_by"), time("created_at"),
            check("drawn_of_population", "n_drawn >= 1 AND n_drawn <= n_population"),
            index("comparison_id", "side"),
        ),
        "audit_member": (
            link("audit_draw_id", "latent_id"), integer("position"),
            primary("audit_draw_id", "latent_id"), unique("audit_draw_id", "position"),
            index("latent_id"),
        ),
        "effective_label": (
            link("comparison_id"), string(16, "side"), link("latent_id"),
            string(16, "outcome", "source?"),
            link("taxonomy_version_id?", "judge_label_id?", "review_event_id?", "explanation_id?"),
            primary("comparison_id", "side", "latent_id"), index("latent_id"),
        ),
        "effective_label_category": (
            integer("comparison_id"), string(16, "side"), integer("latent_id", "rank"),
            link("category_id"), number("confidence?"),
            primary("comparison_id", "side", "latent_id", "rank"),
            links_together(
                "effective_label", "comparison_id", "side", "latent_id",
                name="fk_effective_label_category_label",
            ),
            index("category_id"),
        ),
    }


def reports() -> Tables:
    """Statistics of reports, corrections for judge error, threshold sweeps, null runs."""
    return {
        "category_change_statistic": (
            link("report_run_id: run"), time("computed_at"), link("comparison_id"),
            link("taxonomy_version_id", name="fk_category_change_statistic_version"),
            string(200, "category", "parent?"), integer("level"), string(16, "counting"),
            string(32, "weighting"), string(16, "denominator"),
            integer("target_count", "target_total", "reference_count", "reference_total"),
            number(
                "target_share?", "target_share_low?", "target_share_high?", "reference_share?",
                "reference_share_low?", "reference_share_high?", "percent_change?", "ci_low?",
                "ci_high?", "difference_points?", "difference_points_low?",
                "difference_points_high?", "p_value?", "q_value?",
            ),
            string(32, "verdict", "printed_change", "situation"), string(16, "test"),
            number(
                "target_effective?", "reference_effective?", "detectable_rise?", "detectable_fall?",
            ),
            flag("is_main"),
            unique(
                "report_run_id", "comparison_id", "category", "counting", "weighting",
                "denominator", name="uq_category_change_statistic_row",
            ),
            index("comparison_id"),
        ),
        "judge_correction": (
            link("report_run_id: run", "comparison_id"), time("computed_at"),
            string(20, "estimand"), string(16, "denominator"), text("refusal?"),
            integer("target_reviewed", "target_judged"), flag("target_is_whole"),
            integer("reference_reviewed", "reference_judged"), flag("reference_is_whole"),
            unique("report_run_id", "comparison_id"), index("comparison_id"),
        ),
        "category_correction": (
            link("judge_correction_id"), string(200, "category", "parent?"), integer("level"),
            number(
                "target_share", "target_share_low", "target_share_high", "reference_share",
                "reference_share_low", "reference_share_high", "target_judge_share?",
                "reference_judge_share?", "percent_change?", "ci_low?", "ci_high?", "p_value",
                "q_value",
            ),
            integer(
                "target_hits", "target_positives", "target_rejections", "target_negatives",
                "reference_hits", "reference_positives", "reference_rejections",
                "reference_negatives",
            ),
            number("alike_p", "alike_q", "target_rogan_gladen?", "reference_rogan_gladen?"),
            unique("judge_correction_id", "category"),
        ),
        "category_sweep": (
            link("report_run_id: run", "comparison_id"), time("computed_at"),
            string(200, "category"), string(64, "swept"), number("threshold"),
            integer("target_count", "target_total", "reference_count", "reference_total"),
            number("percent_change?", "ci_low?", "ci_high?"), string(16, "stability"),
            unique(
                "report_run_id", "comparison_id", "category", "threshold",
                name="uq_category_sweep_point",
            ),
            index("comparison_id"),
        ),
        "null_result": (
            link("comparison_id"), time("computed_at"), string(64, "code_version"),
            string(16, "kind"), text("title"), json("settings"),
            integer("n_draws", "n_called", "n_tested"),
            index("comparison_id"),
        ),
        "null_result_change": (
            link("null_result_id"), string(200, "category"),
            number("low?", "high?", "share_as_far?"),
            unique("null_result_id", "category"),
        ),
    }


# fmt: on


def columns(kind: sa.types.TypeEngine[object], *names: str) -> Columns:
    return [sa.Column(name.rstrip("?"), kind, nullable=name.endswith("?")) for name in names]


def string(length: int, *names: str) -> Columns:
    return columns(sa.String(length), *names)


def link(*references: str, name: str | None = None) -> Columns:
    found = []
    for reference in references:
        column, _, table = reference.partition(": ")
        is_optional, column = column.endswith("?"), column.rstrip("?")
        key = sa.ForeignKey(f"{table or column.removesuffix('_id')}.id", name=name)
        found.append(sa.Column(column, sa.Integer, key, nullable=is_optional))
    return found


def links_together(table: str, *names: str, name: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(names, [f"{table}.{each}" for each in names], name=name)


def check(name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=name)


text = partial(columns, sa.Text())
integer = partial(columns, sa.Integer())
number = partial(columns, sa.Double())
flag = partial(columns, sa.Boolean())
time = partial(columns, sa.DateTime(timezone=True))
json = partial(columns, sa.JSON())
primary = sa.PrimaryKeyConstraint
unique = sa.UniqueConstraint
index = partial(sa.Index, None)
