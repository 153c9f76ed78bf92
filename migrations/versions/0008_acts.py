"""Decisions know the act they belong to, instead of sharing a clock value.

Revision: 0008
Revises: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# Until now an act was what one reviewer recorded at one moment; what a taxonomy version carried
# over is an act of its own. The first event's number names the act.
BACKFILL = """
UPDATE review_event SET act = coalesce((
    SELECT 'event ' || min(other.id)
    FROM review_event AS other
    WHERE review_event.carried_from_id IS NULL
      AND other.carried_from_id IS NULL
      AND other.created_at = review_event.created_at
      AND other.reviewer = review_event.reviewer
      AND other.taxonomy_version_id = review_event.taxonomy_version_id
      AND other.action = review_event.action
), 'event ' || id)
"""


def upgrade() -> None:
    op.add_column("review_event", sa.Column("act", sa.String(32), nullable=True))
    op.create_index("backfill_of_acts", "review_event", ["created_at", "reviewer"])
    op.execute(sa.text(BACKFILL))
    op.drop_index("backfill_of_acts", "review_event")
    with op.batch_alter_table("review_event") as table:
        table.alter_column("act", existing_type=sa.String(32), nullable=False)
    op.create_index(op.f("ix_review_event_act"), "review_event", ["act"])


def downgrade() -> None:
    op.drop_index(op.f("ix_review_event_act"), "review_event")
    with op.batch_alter_table("review_event") as table:
        table.drop_column("act")
