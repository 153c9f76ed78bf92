"""Comparisons by other seeds, and changes over seeds.

Revision: 0.2.0_seeds
Revises: 0.2.0_effect_controls
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0.2.0_seeds"
down_revision = "0.2.0_effect_controls"
branch_labels = None
depends_on = None

STATISTIC = "category_change_statistic"
COUNTS = ("over_seeds", "n_seeds_alike", "n_shifts_alike")
VERDICTS = ("up", "down", "too few to say", "no evidence")


def upgrade() -> None:
    for name in COUNTS:
        op.add_column(STATISTIC, sa.Column(name, sa.Integer()))
    op.create_table(
        "comparison_seed",
        sa.Column("comparison_id", sa.Integer(), nullable=False),
        sa.Column("leading_id", sa.Integer(), nullable=False),
        sa.Column("seed", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["comparison_id"], ["comparison.id"], name="fk_comparison_seed_comparison_id_comparison"
        ),
        sa.ForeignKeyConstraint(
            ["leading_id"], ["comparison.id"], name="fk_comparison_seed_leading_id_comparison"
        ),
        sa.PrimaryKeyConstraint("comparison_id", name="pk_comparison_seed"),
        sa.UniqueConstraint("leading_id", "seed", name="uq_comparison_seed_leading_id_seed"),
    )
    op.create_table(
        "seed_change",
        *(sa.Column(name, sa.Integer(), nullable=False) for name in ("id", "report_run_id")),
        sa.Column("comparison_id", sa.Integer(), nullable=False),
        sa.Column("seed", sa.Integer(), nullable=False),
        sa.Column("category", sa.String(200), nullable=False),
        sa.Column("parent", sa.String(200)),
        sa.Column("level", sa.Integer(), nullable=False),
        *(
            sa.Column(f"{side}_{name}", sa.Integer(), nullable=False)
            for side in ("target", "reference")
            for name in ("count", "total")
        ),
        *(sa.Column(name, sa.Double()) for name in ("percent_change", "p_value", "q_value")),
        sa.Column("verdict", sa.String(32), nullable=False),
        sa.Column("n_shifted", sa.Integer()),
        *(sa.Column(name, sa.Double()) for name in ("relative_shift", "relative_shift_q")),
        sa.ForeignKeyConstraint(
            ["report_run_id"], ["run.id"], name="fk_seed_change_report_run_id_run"
        ),
        sa.ForeignKeyConstraint(
            ["comparison_id"], ["comparison.id"], name="fk_seed_change_comparison_id_comparison"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_seed_change"),
        sa.UniqueConstraint(
            "report_run_id", "comparison_id", "seed", "category", name="uq_seed_change"
        ),
    )
    op.create_index("ix_seed_change_comparison_id", "seed_change", ["comparison_id"])


def downgrade() -> None:
    op.drop_table("seed_change")
    op.drop_table("comparison_seed")
    for name in COUNTS:
        op.drop_column(STATISTIC, name)
