"""Explanations tested by experiment: texts that a judge wrote, and what the models made of them.

Revision: 0.2.0_explanation_tests
Revises: 0.2.0_shown_options
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0.2.0_explanation_tests"
down_revision = "0.2.0_shown_options"
branch_labels = None
depends_on = None

PARENTS = ("run", "explanation", "judge", "judge_call")


def upgrade() -> None:
    op.create_table(
        "explanation_test",
        sa.Column("id", sa.Integer(), nullable=False),
        *(sa.Column(f"{table}_id", sa.Integer(), nullable=False) for table in PARENTS),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("is_chosen", sa.Boolean(), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("threshold", sa.Double(), nullable=False),
        *(
            sa.Column(name, sa.Integer(), nullable=False)
            for name in ("n_meant", "n_meant_active", "n_others", "n_others_active")
        ),
        *(sa.Column(name, sa.Double()) for name in ("responsiveness", "purity")),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        *(
            sa.ForeignKeyConstraint(
                [f"{table}_id"], [f"{table}.id"], name=f"fk_explanation_test_{table}_id_{table}"
            )
            for table in PARENTS
        ),
        sa.PrimaryKeyConstraint("id", name="pk_explanation_test"),
    )
    op.create_index("ix_explanation_test_explanation_id", "explanation_test", ["explanation_id"])
    op.create_table(
        "explanation_test_text",
        sa.Column("explanation_test_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("is_meant", sa.Boolean(), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("before", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("activation", sa.Double()),
        sa.ForeignKeyConstraint(
            ["explanation_test_id"],
            ["explanation_test.id"],
            name="fk_explanation_test_text_explanation_test_id_explanation_test",
        ),
        sa.PrimaryKeyConstraint("explanation_test_id", "position", name="pk_explanation_test_text"),
    )


def downgrade() -> None:
    op.drop_table("explanation_test_text")
    op.drop_index("ix_explanation_test_explanation_id", "explanation_test")
    op.drop_table("explanation_test")
