"""Tokens of judge calls whose server told none, so that a later run knows what was used.

Revision: 0.2.0_judge_budget
Revises: 0.2.0_seeds
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0.2.0_judge_budget"
down_revision = "0.2.0_seeds"
branch_labels = None
depends_on = None

ESTIMATES = ("estimated_prompt_tokens", "estimated_completion_tokens")


def upgrade() -> None:
    for name in ESTIMATES:
        op.add_column("judge_call", sa.Column(name, sa.Integer()))


def downgrade() -> None:
    for name in ESTIMATES:
        op.drop_column("judge_call", name)
