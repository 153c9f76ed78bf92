"""Categories of labels: whether the judge's quote is in the evidence or the explanation.

Revision: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("judge_label_category", sa.Column("quote_found", sa.Boolean(), nullable=True))
    # A quote was only ever kept where it had been found.
    found = "UPDATE judge_label_category SET quote_found = true WHERE quote IS NOT NULL"
    op.execute(sa.text(found))


def downgrade() -> None:
    with op.batch_alter_table("judge_label_category") as table:
        table.drop_column("quote_found")
