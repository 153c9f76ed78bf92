"""The mean shift of a category relative to all other latents.

Revision: 0.2.0_relative
Revises: 0.2.0_documents
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0.2.0_relative"
down_revision = "0.2.0_documents"
branch_labels = None
depends_on = None

TABLE = "category_change_statistic"
COLUMNS = ("relative_shift", "relative_shift_low", "relative_shift_high", "relative_shift_q")


def upgrade() -> None:
    for name in COLUMNS:
        op.add_column(TABLE, sa.Column(name, sa.Double()))


def downgrade() -> None:
    for name in COLUMNS:
        op.drop_column(TABLE, name)
