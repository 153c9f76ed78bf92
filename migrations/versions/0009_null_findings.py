"""What the study of a null run finds: latents, mean shifts, scores, effect.

Revision: 0.2.0_nulls
Revises: 0.2.0_scrambled
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0.2.0_nulls"
down_revision = "0.2.0_scrambled"
branch_labels = None
depends_on = None

COUNTS = ("n_target", "n_reference", "n_shifts_called", "n_shifts_tested")
NUMBERS = (
    "own_minus_shuffled",
    "own_minus_shuffled_low",
    "own_minus_shuffled_high",
    "restored",
)


def upgrade() -> None:
    for name in COUNTS:
        op.add_column("null_result", sa.Column(name, sa.Integer()))
    op.add_column("null_result", sa.Column("score_method", sa.String(16)))
    for name in NUMBERS:
        op.add_column("null_result", sa.Column(name, sa.Double()))


def downgrade() -> None:
    for name in (*COUNTS, "score_method", *NUMBERS):
        op.drop_column("null_result", name)
