"""Null runs of a comparison.

Revision: 0007
Revises: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "null_result",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("comparison_id", sa.Integer(), nullable=False),
        sa.Column("computed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("code_version", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("n_draws", sa.Integer(), nullable=False),
        sa.Column("n_called", sa.Integer(), nullable=False),
        sa.Column("n_tested", sa.Integer(), nullable=False),
        sa.CheckConstraint(
            "kind IN ('seed', 'permuted', 'noise')", name=op.f("ck_null_result_kind")
        ),
        sa.ForeignKeyConstraint(
            ["comparison_id"],
            ["comparison.id"],
            name=op.f("fk_null_result_comparison_id_comparison"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_null_result")),
    )
    op.create_index(op.f("ix_null_result_comparison_id"), "null_result", ["comparison_id"])
    op.create_table(
        "null_result_change",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("null_result_id", sa.Integer(), nullable=False),
        sa.Column("category", sa.String(200), nullable=False),
        sa.Column("low", sa.Double(), nullable=True),
        sa.Column("high", sa.Double(), nullable=True),
        sa.Column("share_as_far", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["null_result_id"],
            ["null_result.id"],
            name=op.f("fk_null_result_change_null_result_id_null_result"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_null_result_change")),
        sa.UniqueConstraint(
            "null_result_id",
            "category",
            name=op.f("uq_null_result_change_null_result_id_category"),
        ),
    )


def downgrade() -> None:
    op.drop_table("null_result_change")
    op.drop_index(op.f("ix_null_result_comparison_id"), "null_result")
    op.drop_table("null_result")
