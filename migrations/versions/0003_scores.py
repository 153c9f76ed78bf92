"""Scores of explanations: counts, calls, shuffled explanations, control latents, label samples.

Revision: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SCORE_COLUMNS = ("n_positive", "n_negative", "n_true_positive", "n_true_negative")


def upgrade() -> None:
    for name in SCORE_COLUMNS:
        op.add_column("explanation_score", sa.Column(name, sa.Integer(), nullable=True))
    op.add_column("explanation_score", sa.Column("reason", sa.Text(), nullable=True))
    op.create_table(
        "score_call",
        sa.Column("explanation_score_id", sa.Integer(), nullable=False),
        sa.Column("judge_call_id", sa.Integer(), nullable=False),
        *_keys("score_call", explanation_score_id="explanation_score"),
        *_keys("score_call", judge_call_id="judge_call"),
        sa.PrimaryKeyConstraint(
            "explanation_score_id", "judge_call_id", name=op.f("pk_score_call")
        ),
    )
    _index("score_call", "judge_call_id")
    op.create_table(
        "shuffled_explanation",
        sa.Column("explanation_id", sa.Integer(), nullable=False),
        sa.Column("source_explanation_id", sa.Integer(), nullable=False),
        *_keys(
            "shuffled_explanation",
            explanation_id="explanation",
            source_explanation_id="explanation",
        ),
        sa.PrimaryKeyConstraint("explanation_id", name=op.f("pk_shuffled_explanation")),
    )
    _index("shuffled_explanation", "source_explanation_id")
    op.create_table(
        "control_latent",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("comparison_id", sa.Integer(), nullable=False),
        sa.Column("latent_id", sa.Integer(), nullable=False),
        sa.Column("matched_latent_id", sa.Integer(), nullable=False),
        *_keys(
            "control_latent",
            run_id="run",
            comparison_id="comparison",
            latent_id="latent",
            matched_latent_id="latent",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_control_latent")),
        sa.UniqueConstraint(
            "comparison_id",
            "run_id",
            "latent_id",
            name=op.f("uq_control_latent_comparison_id_run_id_latent_id"),
        ),
    )
    _index("control_latent", "latent_id")
    op.create_table(
        "label_sample",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("latent_id", sa.Integer(), nullable=False),
        sa.Column("judge_id", sa.Integer(), nullable=False),
        sa.Column("taxonomy_version_id", sa.Integer(), nullable=False),
        sa.Column("explanation_id", sa.Integer(), nullable=False),
        sa.Column("judge_call_id", sa.Integer(), nullable=False),
        sa.Column("sample", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("category_id", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('assigned', 'none', 'uninterpretable', 'error')",
            name=op.f("ck_label_sample_outcome"),
        ),
        *_keys(
            "label_sample",
            run_id="run",
            latent_id="latent",
            judge_id="judge",
            taxonomy_version_id="taxonomy_version",
            explanation_id="explanation",
            judge_call_id="judge_call",
            category_id="category",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_label_sample")),
        sa.UniqueConstraint(
            "latent_id",
            "judge_id",
            "taxonomy_version_id",
            "explanation_id",
            "sample",
            "judge_call_id",
            name="uq_label_sample_answer",
        ),
    )
    _index("label_sample", "latent_id", "taxonomy_version_id")


def downgrade() -> None:
    for table in (
        "label_sample",
        "control_latent",
        "shuffled_explanation",
        "score_call",
    ):
        op.drop_table(table)
    with op.batch_alter_table("explanation_score") as table:
        for name in (*SCORE_COLUMNS, "reason"):
            table.drop_column(name)


def _keys(table: str, **columns: str) -> list[sa.ForeignKeyConstraint]:
    return [
        sa.ForeignKeyConstraint([column], [f"{to}.id"], name=op.f(f"fk_{table}_{column}_{to}"))
        for column, to in columns.items()
    ]


def _index(table: str, *columns: str) -> None:
    op.create_index(op.f(f"ix_{table}_{'_'.join(columns)}"), table, list(columns))
