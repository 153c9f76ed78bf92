"""First schema: runs, latents, judging, taxonomy, review.

Revision: 0001
Revises: nothing
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "corpus",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("path", sa.Text(), nullable=True),
        sa.Column("n_documents", sa.Integer(), nullable=False),
        sa.Column("n_tokens", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_corpus")),
        sa.UniqueConstraint("sha256", name=op.f("uq_corpus_sha256")),
    )
    op.create_table(
        "judge",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("model", sa.String(300), nullable=False),
        sa.Column("endpoint_kind", sa.String(32), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("params_sha256", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "endpoint_kind IN ('evidence', 'openai', 'scripted', 'import')",
            name=op.f("ck_judge_endpoint_kind"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_judge")),
        sa.UniqueConstraint(
            "name",
            "model",
            "endpoint_kind",
            "params_sha256",
            name=op.f("uq_judge_name_model_endpoint_kind_params_sha256"),
        ),
    )
    op.create_table(
        "prompt",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prompt")),
        sa.UniqueConstraint("sha256", name=op.f("uq_prompt_sha256")),
    )
    op.create_table(
        "run",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("config_sha256", sa.String(64), nullable=False),
        sa.Column("stage_key", sa.String(64), nullable=True),
        sa.Column("code_version", sa.String(64), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("parent_run_id", sa.Integer(), nullable=True),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.CheckConstraint(
            "kind IN ('harvest', 'train', 'isolate', 'collect', "
            "'label', 'score', 'categorize', 'report', 'import', 'review', 'taxonomy')",
            name=op.f("ck_run_kind"),
        ),
        sa.CheckConstraint(
            "status IN ('running', 'done', 'failed', 'interrupted')", name=op.f("ck_run_status")
        ),
        sa.ForeignKeyConstraint(
            ["parent_run_id"], ["run.id"], name=op.f("fk_run_parent_run_id_run")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run")),
    )
    op.create_index(op.f("ix_run_kind_stage_key"), "run", ["kind", "stage_key"], unique=False)
    op.create_table(
        "subject_model",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("path", sa.Text(), nullable=True),
        sa.Column("adapter", sa.Text(), nullable=True),
        sa.Column("revision", sa.String(200), nullable=True),
        sa.Column("n_layers", sa.Integer(), nullable=True),
        sa.Column("d_model", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subject_model")),
        sa.UniqueConstraint("name", "fingerprint", name=op.f("uq_subject_model_name_fingerprint")),
    )
    op.create_table(
        "taxonomy_version",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("frozen", sa.Boolean(), nullable=False),
        sa.Column("parent_version_id", sa.Integer(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["parent_version_id"],
            ["taxonomy_version.id"],
            name=op.f("fk_taxonomy_version_parent_version_id_taxonomy_version"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_taxonomy_version")),
        sa.UniqueConstraint("sha256", name=op.f("uq_taxonomy_version_sha256")),
    )
    op.create_table(
        "category",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("taxonomy_version_id", sa.Integer(), nullable=False),
        sa.Column("slug", sa.String(200), nullable=False),
        sa.Column("parent_id", sa.Integer(), nullable=True),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("definition", sa.Text(), nullable=False),
        sa.Column("include_when", sa.Text(), nullable=False),
        sa.Column("exclude_when", sa.Text(), nullable=False),
        sa.Column("prototypes", sa.JSON(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.CheckConstraint(
            "slug NOT IN ('none', 'uninterpretable')", name=op.f("ck_category_slug_not_reserved")
        ),
        sa.CheckConstraint("level IN (1, 2)", name=op.f("ck_category_level")),
        sa.ForeignKeyConstraint(
            ["parent_id"], ["category.id"], name=op.f("fk_category_parent_id_category")
        ),
        sa.ForeignKeyConstraint(
            ["taxonomy_version_id"],
            ["taxonomy_version.id"],
            name=op.f("fk_category_taxonomy_version_id_taxonomy_version"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_category")),
        sa.UniqueConstraint(
            "taxonomy_version_id", "slug", name=op.f("uq_category_taxonomy_version_id_slug")
        ),
    )
    op.create_table(
        "crosscoder",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(300), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=True),
        sa.Column("run_id", sa.Integer(), nullable=True),
        sa.Column("corpus_id", sa.Integer(), nullable=True),
        sa.Column("path", sa.Text(), nullable=True),
        sa.Column("n_latents", sa.Integer(), nullable=True),
        sa.Column("config", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["corpus_id"], ["corpus.id"], name=op.f("fk_crosscoder_corpus_id_corpus")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_crosscoder_run_id_run")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_crosscoder")),
        sa.UniqueConstraint("name", name=op.f("uq_crosscoder_name")),
    )
    op.create_table(
        "category_mapping",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("from_category_id", sa.Integer(), nullable=False),
        sa.Column("to_category_id", sa.Integer(), nullable=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "kind IN ('same', 'renamed', 'merged', 'split', 'moved', 'dropped')",
            name=op.f("ck_category_mapping_kind"),
        ),
        sa.ForeignKeyConstraint(
            ["from_category_id"],
            ["category.id"],
            name=op.f("fk_category_mapping_from_category_id_category"),
        ),
        sa.ForeignKeyConstraint(
            ["to_category_id"],
            ["category.id"],
            name=op.f("fk_category_mapping_to_category_id_category"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_category_mapping")),
        sa.UniqueConstraint(
            "from_category_id",
            "to_category_id",
            name=op.f("uq_category_mapping_from_category_id_to_category_id"),
        ),
    )
    op.create_table(
        "crosscoder_model",
        sa.Column("crosscoder_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("subject_model_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["crosscoder_id"],
            ["crosscoder.id"],
            name=op.f("fk_crosscoder_model_crosscoder_id_crosscoder"),
        ),
        sa.ForeignKeyConstraint(
            ["subject_model_id"],
            ["subject_model.id"],
            name=op.f("fk_crosscoder_model_subject_model_id_subject_model"),
        ),
        sa.PrimaryKeyConstraint("crosscoder_id", "position", name=op.f("pk_crosscoder_model")),
        sa.UniqueConstraint(
            "crosscoder_id",
            "subject_model_id",
            name=op.f("uq_crosscoder_model_crosscoder_id_subject_model_id"),
        ),
    )
    op.create_table(
        "latent",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("crosscoder_id", sa.Integer(), nullable=False),
        sa.Column("latent_index", sa.Integer(), nullable=False),
        sa.Column("density", sa.Double(), nullable=True),
        sa.Column("n_documents", sa.Integer(), nullable=True),
        sa.Column("max_activation", sa.Double(), nullable=True),
        sa.Column("mean_activation", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["crosscoder_id"], ["crosscoder.id"], name=op.f("fk_latent_crosscoder_id_crosscoder")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_latent")),
        sa.UniqueConstraint(
            "crosscoder_id", "latent_index", name=op.f("uq_latent_crosscoder_id_latent_index")
        ),
    )
    op.create_table(
        "latent_set",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(300), nullable=False),
        sa.Column("crosscoder_id", sa.Integer(), nullable=True),
        sa.Column("target_model_id", sa.Integer(), nullable=True),
        sa.Column("against_model_id", sa.Integer(), nullable=True),
        sa.Column("rule", sa.String(32), nullable=False),
        sa.Column("rule_params", sa.JSON(), nullable=False),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "rule IN ('strict', 'significant', 'ranked', 'imported')",
            name=op.f("ck_latent_set_rule"),
        ),
        sa.ForeignKeyConstraint(
            ["against_model_id"],
            ["subject_model.id"],
            name=op.f("fk_latent_set_against_model_id_subject_model"),
        ),
        sa.ForeignKeyConstraint(
            ["crosscoder_id"],
            ["crosscoder.id"],
            name=op.f("fk_latent_set_crosscoder_id_crosscoder"),
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_latent_set_run_id_run")),
        sa.ForeignKeyConstraint(
            ["target_model_id"],
            ["subject_model.id"],
            name=op.f("fk_latent_set_target_model_id_subject_model"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_latent_set")),
    )
    op.create_index(op.f("ix_latent_set_name"), "latent_set", ["name"], unique=False)
    op.create_table(
        "comparison",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("target_set_id", sa.Integer(), nullable=False),
        sa.Column("reference_set_id", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("labels_changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "target_set_id <> reference_set_id", name=op.f("ck_comparison_two_sets")
        ),
        sa.ForeignKeyConstraint(
            ["reference_set_id"],
            ["latent_set.id"],
            name=op.f("fk_comparison_reference_set_id_latent_set"),
        ),
        sa.ForeignKeyConstraint(
            ["target_set_id"],
            ["latent_set.id"],
            name=op.f("fk_comparison_target_set_id_latent_set"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_comparison")),
        sa.UniqueConstraint("name", name=op.f("uq_comparison_name")),
    )
    op.create_index(
        op.f("ix_comparison_reference_set_id"), "comparison", ["reference_set_id"], unique=False
    )
    op.create_index(
        op.f("ix_comparison_target_set_id"), "comparison", ["target_set_id"], unique=False
    )
    op.create_table(
        "evidence_document",
        sa.Column("latent_id", sa.Integer(), nullable=False),
        sa.Column("document_id", sa.String(300), nullable=False),
        sa.Column("split", sa.String(16), nullable=False),
        sa.CheckConstraint(
            "split IN ('explain', 'score')", name=op.f("ck_evidence_document_split")
        ),
        sa.ForeignKeyConstraint(
            ["latent_id"], ["latent.id"], name=op.f("fk_evidence_document_latent_id_latent")
        ),
        sa.PrimaryKeyConstraint("latent_id", "document_id", name=op.f("pk_evidence_document")),
        sa.UniqueConstraint(
            "latent_id",
            "document_id",
            "split",
            name=op.f("uq_evidence_document_latent_id_document_id_split"),
        ),
    )
    op.create_table(
        "judge_call",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("judge_id", sa.Integer(), nullable=False),
        sa.Column("request_sha256", sa.String(64), nullable=False),
        sa.Column("sample", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("latent_id", sa.Integer(), nullable=True),
        sa.Column("prompt_id", sa.Integer(), nullable=True),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("raw", sa.Text(), nullable=True),
        sa.Column("parsed", sa.JSON(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("latency_s", sa.Double(), nullable=True),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True),
        sa.Column("completion_tokens", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "stage IN ('explain', 'categorize', 'detect', 'fuzz', 'name', 'merge')",
            name=op.f("ck_judge_call_stage"),
        ),
        sa.CheckConstraint(
            "status IN ('ok', 'parse_error', 'refused', 'truncated', 'transport_error')",
            name=op.f("ck_judge_call_status"),
        ),
        sa.ForeignKeyConstraint(
            ["judge_id"], ["judge.id"], name=op.f("fk_judge_call_judge_id_judge")
        ),
        sa.ForeignKeyConstraint(
            ["latent_id"], ["latent.id"], name=op.f("fk_judge_call_latent_id_latent")
        ),
        sa.ForeignKeyConstraint(
            ["prompt_id"], ["prompt.id"], name=op.f("fk_judge_call_prompt_id_prompt")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_judge_call_run_id_run")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_judge_call")),
        sa.UniqueConstraint(
            "judge_id",
            "request_sha256",
            "sample",
            "attempt",
            name=op.f("uq_judge_call_judge_id_request_sha256_sample_attempt"),
        ),
    )
    op.create_index(op.f("ix_judge_call_latent_id"), "judge_call", ["latent_id"], unique=False)
    op.create_index(op.f("ix_judge_call_run_id"), "judge_call", ["run_id"], unique=False)
    op.create_table(
        "latent_scaling",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("latent_id", sa.Integer(), nullable=False),
        sa.Column("target_model_id", sa.Integer(), nullable=False),
        sa.Column("reference_model_id", sa.Integer(), nullable=False),
        sa.Column("delta_norm", sa.Double(), nullable=True),
        sa.Column("nu_error", sa.Double(), nullable=True),
        sa.Column("nu_error_low", sa.Double(), nullable=True),
        sa.Column("nu_error_high", sa.Double(), nullable=True),
        sa.Column("nu_reconstruction", sa.Double(), nullable=True),
        sa.Column("nu_reconstruction_low", sa.Double(), nullable=True),
        sa.Column("nu_reconstruction_high", sa.Double(), nullable=True),
        sa.Column("n_active", sa.Integer(), nullable=True),
        sa.Column("n_documents", sa.Integer(), nullable=True),
        sa.Column("is_flagged", sa.Boolean(), nullable=False),
        sa.CheckConstraint(
            "target_model_id <> reference_model_id", name=op.f("ck_latent_scaling_two_models")
        ),
        sa.ForeignKeyConstraint(
            ["latent_id"], ["latent.id"], name=op.f("fk_latent_scaling_latent_id_latent")
        ),
        sa.ForeignKeyConstraint(
            ["reference_model_id"],
            ["subject_model.id"],
            name=op.f("fk_latent_scaling_reference_model_id_subject_model"),
        ),
        sa.ForeignKeyConstraint(
            ["target_model_id"],
            ["subject_model.id"],
            name=op.f("fk_latent_scaling_target_model_id_subject_model"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_latent_scaling")),
        sa.UniqueConstraint(
            "latent_id", "target_model_id", "reference_model_id", name="uq_latent_scaling_pair"
        ),
    )
    op.create_table(
        "latent_set_member",
        sa.Column("latent_set_id", sa.Integer(), nullable=False),
        sa.Column("latent_id", sa.Integer(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=True),
        sa.Column("score", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["latent_id"], ["latent.id"], name=op.f("fk_latent_set_member_latent_id_latent")
        ),
        sa.ForeignKeyConstraint(
            ["latent_set_id"],
            ["latent_set.id"],
            name=op.f("fk_latent_set_member_latent_set_id_latent_set"),
        ),
        sa.PrimaryKeyConstraint("latent_set_id", "latent_id", name=op.f("pk_latent_set_member")),
    )
    op.create_index(
        op.f("ix_latent_set_member_latent_id"), "latent_set_member", ["latent_id"], unique=False
    )
    op.create_table(
        "work_item",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("item_key", sa.String(200), nullable=False),
        sa.Column("latent_id", sa.Integer(), nullable=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("claimed_by", sa.String(200), nullable=True),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status IN ('open', 'claimed', 'done', 'failed')", name=op.f("ck_work_item_status")
        ),
        sa.ForeignKeyConstraint(
            ["latent_id"], ["latent.id"], name=op.f("fk_work_item_latent_id_latent")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_work_item_run_id_run")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_work_item")),
        sa.UniqueConstraint(
            "run_id", "stage", "item_key", name=op.f("uq_work_item_run_id_stage_item_key")
        ),
    )
    op.create_index(
        op.f("ix_work_item_run_id_status"), "work_item", ["run_id", "status"], unique=False
    )
    op.create_table(
        "category_change_statistic",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("report_run_id", sa.Integer(), nullable=False),
        sa.Column("computed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("comparison_id", sa.Integer(), nullable=False),
        sa.Column("taxonomy_version_id", sa.Integer(), nullable=False),
        sa.Column("category", sa.String(200), nullable=False),
        sa.Column("parent", sa.String(200), nullable=True),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("counting", sa.String(16), nullable=False),
        sa.Column("weighting", sa.String(32), nullable=False),
        sa.Column("denominator", sa.String(16), nullable=False),
        sa.Column("target_count", sa.Integer(), nullable=False),
        sa.Column("target_total", sa.Integer(), nullable=False),
        sa.Column("reference_count", sa.Integer(), nullable=False),
        sa.Column("reference_total", sa.Integer(), nullable=False),
        sa.Column("target_share", sa.Double(), nullable=True),
        sa.Column("target_share_low", sa.Double(), nullable=True),
        sa.Column("target_share_high", sa.Double(), nullable=True),
        sa.Column("reference_share", sa.Double(), nullable=True),
        sa.Column("reference_share_low", sa.Double(), nullable=True),
        sa.Column("reference_share_high", sa.Double(), nullable=True),
        sa.Column("percent_change", sa.Double(), nullable=True),
        sa.Column("ci_low", sa.Double(), nullable=True),
        sa.Column("ci_high", sa.Double(), nullable=True),
        sa.Column("difference_points", sa.Double(), nullable=True),
        sa.Column("difference_points_low", sa.Double(), nullable=True),
        sa.Column("difference_points_high", sa.Double(), nullable=True),
        sa.Column("p_value", sa.Double(), nullable=True),
        sa.Column("q_value", sa.Double(), nullable=True),
        sa.Column("verdict", sa.String(32), nullable=False),
        sa.Column("printed_change", sa.String(32), nullable=False),
        sa.CheckConstraint(
            "counting IN ('primary', 'any')", name=op.f("ck_category_change_statistic_counting")
        ),
        sa.CheckConstraint(
            "denominator IN ('labelled', 'assigned', 'isolated')",
            name=op.f("ck_category_change_statistic_denominator"),
        ),
        sa.CheckConstraint(
            "verdict IN ('up', 'down', 'too few to say', 'no evidence')",
            name=op.f("ck_category_change_statistic_verdict"),
        ),
        sa.ForeignKeyConstraint(
            ["comparison_id"],
            ["comparison.id"],
            name=op.f("fk_category_change_statistic_comparison_id_comparison"),
        ),
        sa.ForeignKeyConstraint(
            ["report_run_id"],
            ["run.id"],
            name=op.f("fk_category_change_statistic_report_run_id_run"),
        ),
        sa.ForeignKeyConstraint(
            ["taxonomy_version_id"],
            ["taxonomy_version.id"],
            name="fk_category_change_statistic_version",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_category_change_statistic")),
        sa.UniqueConstraint(
            "report_run_id",
            "comparison_id",
            "category",
            "counting",
            "weighting",
            "denominator",
            name="uq_category_change_statistic_row",
        ),
    )
    op.create_index(
        op.f("ix_category_change_statistic_comparison_id"),
        "category_change_statistic",
        ["comparison_id"],
        unique=False,
    )
    op.create_table(
        "comparison_setting",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("comparison_id", sa.Integer(), nullable=False),
        sa.Column("taxonomy_version_id", sa.Integer(), nullable=False),
        sa.Column("judge_id", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["comparison_id"],
            ["comparison.id"],
            name=op.f("fk_comparison_setting_comparison_id_comparison"),
        ),
        sa.ForeignKeyConstraint(
            ["judge_id"], ["judge.id"], name=op.f("fk_comparison_setting_judge_id_judge")
        ),
        sa.ForeignKeyConstraint(
            ["taxonomy_version_id"],
            ["taxonomy_version.id"],
            name=op.f("fk_comparison_setting_taxonomy_version_id_taxonomy_version"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_comparison_setting")),
    )
    op.create_index(
        op.f("ix_comparison_setting_comparison_id"),
        "comparison_setting",
        ["comparison_id"],
        unique=False,
    )
    op.create_table(
        "evidence",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("latent_id", sa.Integer(), nullable=False),
        sa.Column("document_id", sa.String(300), nullable=False),
        sa.Column("split", sa.String(16), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("quantile", sa.Integer(), nullable=True),
        sa.Column("start", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.JSON(), nullable=False),
        sa.Column("token_ids", sa.JSON(), nullable=False),
        sa.Column("roles", sa.JSON(), nullable=False),
        sa.Column("activations", sa.JSON(), nullable=False),
        sa.Column("max_activation", sa.Double(), nullable=False),
        sa.CheckConstraint(
            "kind IN ('top', 'quantile', 'negative', 'other_model')", name=op.f("ck_evidence_kind")
        ),
        sa.ForeignKeyConstraint(
            ["latent_id", "document_id", "split"],
            [
                "evidence_document.latent_id",
                "evidence_document.document_id",
                "evidence_document.split",
            ],
            name="fk_evidence_split",
        ),
        sa.ForeignKeyConstraint(
            ["latent_id"], ["latent.id"], name=op.f("fk_evidence_latent_id_latent")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_evidence_run_id_run")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evidence")),
    )
    op.create_index(
        op.f("ix_evidence_latent_id_run_id"), "evidence", ["latent_id", "run_id"], unique=False
    )
    op.create_table(
        "explanation",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("latent_id", sa.Integer(), nullable=False),
        sa.Column("judge_id", sa.Integer(), nullable=False),
        sa.Column("judge_call_id", sa.Integer(), nullable=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("interpretable", sa.Boolean(), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=True),
        sa.Column("is_control", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["judge_call_id"],
            ["judge_call.id"],
            name=op.f("fk_explanation_judge_call_id_judge_call"),
        ),
        sa.ForeignKeyConstraint(
            ["judge_id"], ["judge.id"], name=op.f("fk_explanation_judge_id_judge")
        ),
        sa.ForeignKeyConstraint(
            ["latent_id"], ["latent.id"], name=op.f("fk_explanation_latent_id_latent")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_explanation_run_id_run")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_explanation")),
    )
    op.create_index(
        op.f("ix_explanation_latent_id_judge_id"),
        "explanation",
        ["latent_id", "judge_id"],
        unique=False,
    )
    op.create_index(op.f("ix_explanation_run_id"), "explanation", ["run_id"], unique=False)
    op.create_table(
        "explanation_score",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("explanation_id", sa.Integer(), nullable=False),
        sa.Column("judge_id", sa.Integer(), nullable=False),
        sa.Column("method", sa.String(16), nullable=False),
        sa.Column("balanced_accuracy", sa.Double(), nullable=True),
        sa.Column("ci_low", sa.Double(), nullable=True),
        sa.Column("ci_high", sa.Double(), nullable=True),
        sa.Column("n_asked", sa.Integer(), nullable=False),
        sa.Column("n_parsed", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "method IN ('detection', 'fuzzing')", name=op.f("ck_explanation_score_method")
        ),
        sa.ForeignKeyConstraint(
            ["explanation_id"],
            ["explanation.id"],
            name=op.f("fk_explanation_score_explanation_id_explanation"),
        ),
        sa.ForeignKeyConstraint(
            ["judge_id"], ["judge.id"], name=op.f("fk_explanation_score_judge_id_judge")
        ),
        sa.ForeignKeyConstraint(
            ["run_id"], ["run.id"], name=op.f("fk_explanation_score_run_id_run")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_explanation_score")),
    )
    op.create_index(
        op.f("ix_explanation_score_explanation_id"),
        "explanation_score",
        ["explanation_id"],
        unique=False,
    )
    op.create_table(
        "judge_label",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("latent_id", sa.Integer(), nullable=False),
        sa.Column("judge_id", sa.Integer(), nullable=False),
        sa.Column("taxonomy_version_id", sa.Integer(), nullable=False),
        sa.Column("explanation_id", sa.Integer(), nullable=True),
        sa.Column("judge_call_id", sa.Integer(), nullable=True),
        sa.Column("carried_from_id", sa.Integer(), nullable=True),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=True),
        sa.Column("is_control", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('assigned', 'none', 'uninterpretable', 'error')",
            name=op.f("ck_judge_label_outcome"),
        ),
        sa.ForeignKeyConstraint(
            ["carried_from_id"],
            ["judge_label.id"],
            name=op.f("fk_judge_label_carried_from_id_judge_label"),
        ),
        sa.ForeignKeyConstraint(
            ["explanation_id"],
            ["explanation.id"],
            name=op.f("fk_judge_label_explanation_id_explanation"),
        ),
        sa.ForeignKeyConstraint(
            ["judge_call_id"],
            ["judge_call.id"],
            name=op.f("fk_judge_label_judge_call_id_judge_call"),
        ),
        sa.ForeignKeyConstraint(
            ["judge_id"], ["judge.id"], name=op.f("fk_judge_label_judge_id_judge")
        ),
        sa.ForeignKeyConstraint(
            ["latent_id"], ["latent.id"], name=op.f("fk_judge_label_latent_id_latent")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_judge_label_run_id_run")),
        sa.ForeignKeyConstraint(
            ["taxonomy_version_id"],
            ["taxonomy_version.id"],
            name=op.f("fk_judge_label_taxonomy_version_id_taxonomy_version"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_judge_label")),
    )
    op.create_index(
        op.f("ix_judge_label_latent_id_taxonomy_version_id_judge_id"),
        "judge_label",
        ["latent_id", "taxonomy_version_id", "judge_id"],
        unique=False,
    )
    op.create_index(op.f("ix_judge_label_run_id"), "judge_label", ["run_id"], unique=False)
    op.create_table(
        "judge_label_category",
        sa.Column("judge_label_id", sa.Integer(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("category_id", sa.Integer(), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=True),
        sa.Column("quote", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["category_id"],
            ["category.id"],
            name=op.f("fk_judge_label_category_category_id_category"),
        ),
        sa.ForeignKeyConstraint(
            ["judge_label_id"],
            ["judge_label.id"],
            name=op.f("fk_judge_label_category_judge_label_id_judge_label"),
        ),
        sa.PrimaryKeyConstraint("judge_label_id", "rank", name=op.f("pk_judge_label_category")),
        sa.UniqueConstraint(
            "judge_label_id",
            "category_id",
            name=op.f("uq_judge_label_category_judge_label_id_category_id"),
        ),
    )
    op.create_table(
        "review_event",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("latent_id", sa.Integer(), nullable=False),
        sa.Column("taxonomy_version_id", sa.Integer(), nullable=False),
        sa.Column("reviewer", sa.String(200), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("explanation_text", sa.Text(), nullable=True),
        sa.Column("based_on_judge_label_id", sa.Integer(), nullable=True),
        sa.Column("restores_event_id", sa.Integer(), nullable=True),
        sa.Column("carried_from_id", sa.Integer(), nullable=True),
        sa.Column("reason", sa.String(64), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("was_blind", sa.Boolean(), nullable=False),
        sa.Column("selection", sa.String(16), nullable=False),
        sa.Column("inclusion_prob", sa.Double(), nullable=True),
        sa.Column("elapsed_ms", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "action <> 'accept' OR based_on_judge_label_id IS NOT NULL",
            name=op.f("ck_review_event_accept_names_label"),
        ),
        sa.CheckConstraint(
            "action IN ('accept', 'set', 'none', 'uninterpretable', 'skip', 'undo')",
            name=op.f("ck_review_event_action"),
        ),
        sa.CheckConstraint(
            "restores_event_id IS NULL OR action = 'undo'",
            name=op.f("ck_review_event_restores_by_undo"),
        ),
        sa.CheckConstraint(
            "selection IN ('random', 'uncertain', 'manual')", name=op.f("ck_review_event_selection")
        ),
        sa.CheckConstraint(
            "inclusion_prob IS NULL OR (inclusion_prob > 0 AND inclusion_prob <= 1)",
            name=op.f("ck_review_event_inclusion_prob"),
        ),
        sa.CheckConstraint("revision >= 1", name=op.f("ck_review_event_revision_positive")),
        sa.ForeignKeyConstraint(
            ["based_on_judge_label_id"],
            ["judge_label.id"],
            name=op.f("fk_review_event_based_on_judge_label_id_judge_label"),
        ),
        sa.ForeignKeyConstraint(
            ["carried_from_id"],
            ["review_event.id"],
            name=op.f("fk_review_event_carried_from_id_review_event"),
        ),
        sa.ForeignKeyConstraint(
            ["latent_id"], ["latent.id"], name=op.f("fk_review_event_latent_id_latent")
        ),
        sa.ForeignKeyConstraint(
            ["restores_event_id"],
            ["review_event.id"],
            name=op.f("fk_review_event_restores_event_id_review_event"),
        ),
        sa.ForeignKeyConstraint(
            ["taxonomy_version_id"],
            ["taxonomy_version.id"],
            name=op.f("fk_review_event_taxonomy_version_id_taxonomy_version"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_review_event")),
        sa.UniqueConstraint(
            "latent_id",
            "taxonomy_version_id",
            "reviewer",
            "revision",
            name="uq_review_event_stream_revision",
        ),
    )
    op.create_table(
        "effective_label",
        sa.Column("comparison_id", sa.Integer(), nullable=False),
        sa.Column("side", sa.String(16), nullable=False),
        sa.Column("latent_id", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("source", sa.String(16), nullable=True),
        sa.Column("taxonomy_version_id", sa.Integer(), nullable=True),
        sa.Column("judge_label_id", sa.Integer(), nullable=True),
        sa.Column("review_event_id", sa.Integer(), nullable=True),
        sa.Column("explanation_id", sa.Integer(), nullable=True),
        sa.CheckConstraint(
            "outcome IN ('assigned', 'none', 'uninterpretable', 'error', 'unlabelled')",
            name=op.f("ck_effective_label_outcome"),
        ),
        sa.CheckConstraint("side IN ('target', 'reference')", name=op.f("ck_effective_label_side")),
        sa.CheckConstraint(
            "source IN ('human', 'judge', 'import')", name=op.f("ck_effective_label_source")
        ),
        sa.ForeignKeyConstraint(
            ["comparison_id"],
            ["comparison.id"],
            name=op.f("fk_effective_label_comparison_id_comparison"),
        ),
        sa.ForeignKeyConstraint(
            ["explanation_id"],
            ["explanation.id"],
            name=op.f("fk_effective_label_explanation_id_explanation"),
        ),
        sa.ForeignKeyConstraint(
            ["judge_label_id"],
            ["judge_label.id"],
            name=op.f("fk_effective_label_judge_label_id_judge_label"),
        ),
        sa.ForeignKeyConstraint(
            ["latent_id"], ["latent.id"], name=op.f("fk_effective_label_latent_id_latent")
        ),
        sa.ForeignKeyConstraint(
            ["review_event_id"],
            ["review_event.id"],
            name=op.f("fk_effective_label_review_event_id_review_event"),
        ),
        sa.ForeignKeyConstraint(
            ["taxonomy_version_id"],
            ["taxonomy_version.id"],
            name=op.f("fk_effective_label_taxonomy_version_id_taxonomy_version"),
        ),
        sa.PrimaryKeyConstraint(
            "comparison_id", "side", "latent_id", name=op.f("pk_effective_label")
        ),
    )
    op.create_index(
        op.f("ix_effective_label_latent_id"), "effective_label", ["latent_id"], unique=False
    )
    op.create_table(
        "review_event_category",
        sa.Column("review_event_id", sa.Integer(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("category_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["category_id"],
            ["category.id"],
            name=op.f("fk_review_event_category_category_id_category"),
        ),
        sa.ForeignKeyConstraint(
            ["review_event_id"],
            ["review_event.id"],
            name=op.f("fk_review_event_category_review_event_id_review_event"),
        ),
        sa.PrimaryKeyConstraint("review_event_id", "rank", name=op.f("pk_review_event_category")),
        sa.UniqueConstraint(
            "review_event_id",
            "category_id",
            name=op.f("uq_review_event_category_review_event_id_category_id"),
        ),
    )
    op.create_table(
        "effective_label_category",
        sa.Column("comparison_id", sa.Integer(), nullable=False),
        sa.Column("side", sa.String(16), nullable=False),
        sa.Column("latent_id", sa.Integer(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("category_id", sa.Integer(), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["category_id"],
            ["category.id"],
            name=op.f("fk_effective_label_category_category_id_category"),
        ),
        sa.ForeignKeyConstraint(
            ["comparison_id", "side", "latent_id"],
            ["effective_label.comparison_id", "effective_label.side", "effective_label.latent_id"],
            name="fk_effective_label_category_label",
        ),
        sa.PrimaryKeyConstraint(
            "comparison_id", "side", "latent_id", "rank", name=op.f("pk_effective_label_category")
        ),
    )
    op.create_index(
        op.f("ix_effective_label_category_category_id"),
        "effective_label_category",
        ["category_id"],
        unique=False,
    )


def downgrade() -> None:
    op.drop_table("effective_label_category")
    op.drop_table("review_event_category")
    op.drop_table("effective_label")
    op.drop_table("review_event")
    op.drop_table("judge_label_category")
    op.drop_table("judge_label")
    op.drop_table("explanation_score")
    op.drop_table("explanation")
    op.drop_table("evidence")
    op.drop_table("comparison_setting")
    op.drop_table("category_change_statistic")
    op.drop_table("work_item")
    op.drop_table("latent_set_member")
    op.drop_table("latent_scaling")
    op.drop_table("judge_call")
    op.drop_table("evidence_document")
    op.drop_table("comparison")
    op.drop_table("latent_set")
    op.drop_table("latent")
    op.drop_table("crosscoder_model")
    op.drop_table("category_mapping")
    op.drop_table("crosscoder")
    op.drop_table("category")
    op.drop_table("taxonomy_version")
    op.drop_table("subject_model")
    op.drop_table("run")
    op.drop_table("prompt")
    op.drop_table("judge")
    op.drop_table("corpus")
