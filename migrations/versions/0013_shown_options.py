"""The order in which a judge was shown the categories.

Revision: 0.2.0_shown_options
Revises: 0.2.0_judge_budget
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0.2.0_shown_options"
down_revision = "0.2.0_judge_budget"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("judge_call", sa.Column("options", sa.JSON()))


def downgrade() -> None:
    op.drop_column("judge_call", "options")
