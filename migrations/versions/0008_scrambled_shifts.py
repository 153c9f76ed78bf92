"""The shifts of scrambled fine-tunes, and what they say of each category.

Revision: 0.2.0_scrambled
Revises: 0.2.0_stability
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0.2.0_scrambled"
down_revision = "0.2.0_stability"
branch_labels = None
depends_on = None

DRAWS, CHANGES = "side_draw", "category_change_statistic"
MATRICES = ("squares", "scrambled")
SHIFTS = ("weighted_shift", "scrambled_low", "scrambled_high", "weighted_shift_q")


def upgrade() -> None:
    for name in MATRICES:
        op.add_column(DRAWS, sa.Column(name, sa.Text()))
    for name in SHIFTS:
        op.add_column(CHANGES, sa.Column(name, sa.Double()))
    op.add_column(CHANGES, sa.Column("n_scrambled", sa.Integer()))


def downgrade() -> None:
    for name in MATRICES:
        op.drop_column(DRAWS, name)
    for name in (*SHIFTS, "n_scrambled"):
        op.drop_column(CHANGES, name)
