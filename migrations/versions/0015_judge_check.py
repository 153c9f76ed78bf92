"""What the check of a judge measured.

Revision: 0.2.0_judge_check
Revises: 0.2.0_explanation_tests
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0.2.0_judge_check"
down_revision = "0.2.0_explanation_tests"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "judge_check",
        *(sa.Column(name, sa.Integer(), nullable=False) for name in ("id", "judge_id")),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("prompts_sha256", sa.String(64), nullable=False),
        *(
            sa.Column(name, sa.Integer(), nullable=False)
            for name in ("n_latents", "n_answered", "n_right")
        ),
        sa.Column("top_answer", sa.String(200)),
        *(
            sa.Column(name, sa.Integer(), nullable=False)
            for name in (
                "n_top_answer",
                "n_content_free",
                "n_content_free_assigned",
                "n_reordered",
                "n_same_answer",
            )
        ),
        *(
            sa.Column(name, sa.Double())
            for name in ("calibration_error", "mean_confidence", "puzzle_accuracy")
        ),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["judge_id"], ["judge.id"], name="fk_judge_check_judge_id_judge"),
        sa.PrimaryKeyConstraint("id", name="pk_judge_check"),
    )
    op.create_index("ix_judge_check_judge_id", "judge_check", ["judge_id"])


def downgrade() -> None:
    op.drop_table("judge_check")
