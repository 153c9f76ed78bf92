"""How much text a change needs: documents that were drawn, smallest change they show, advice.

Revision: 0.2.0_documents
Revises: 0.2.0
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0.2.0_documents"
down_revision = "0.2.0"
branch_labels = None
depends_on = None

TABLE = "category_change_statistic"


def upgrade() -> None:
    op.add_column(TABLE, sa.Column("n_documents", sa.Integer()))
    op.add_column(TABLE, sa.Column("detectable_points", sa.Double()))
    op.add_column(TABLE, sa.Column("documents_needed", sa.Integer()))


def downgrade() -> None:
    for name in ("documents_needed", "detectable_points", "n_documents"):
        op.drop_column(TABLE, name)
