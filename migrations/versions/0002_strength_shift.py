"""Strength shifts of latents, randomised sides of comparisons, and the p that they give.

Revision: 0.2.0
Revises: 0.1.0
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0.2.0"
down_revision = "0.1.0"
branch_labels = None
depends_on = None

COLUMNS = {
    "latent_scaling": ("strength_shift", "shift_low", "shift_high", "shift_t", "shift_q"),
    "category_change_statistic": (
        "family_p",
        *("mean_shift", "mean_shift_low", "mean_shift_high", "mean_shift_q"),
    ),
}


def upgrade() -> None:
    for table, names in COLUMNS.items():
        for name in names:
            op.add_column(table, sa.Column(name, sa.Double()))
    op.add_column("category_change_statistic", sa.Column("n_shifted", sa.Integer()))
    op.create_table(
        "side_draw",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("target_set_id", sa.Integer(), nullable=False),
        sa.Column("reference_set_id", sa.Integer(), nullable=False),
        sa.Column("has_prefixes", sa.Boolean(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("shifts", sa.Text(), nullable=False),
        sa.Column("target_order", sa.Text()),
        sa.Column("reference_order", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_side_draw"),
        *(
            sa.ForeignKeyConstraint(
                [name], ["latent_set.id"], name=f"fk_side_draw_{name}_latent_set"
            )
            for name in ("target_set_id", "reference_set_id")
        ),
        sa.UniqueConstraint(
            "target_set_id", "reference_set_id", name="uq_side_draw_target_set_id_reference_set_id"
        ),
    )


def downgrade() -> None:
    op.drop_table("side_draw")
    op.drop_column("category_change_statistic", "n_shifted")
    for table, names in COLUMNS.items():
        for name in names:
            op.drop_column(table, name)
