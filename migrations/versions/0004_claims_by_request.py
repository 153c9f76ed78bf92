"""Claims of workers: one for each request, whichever run makes it.

Revision: 0004
Revises: 0003
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BY_RUN = "uq_work_item_run_id_stage_item_key"
BY_REQUEST = "uq_work_item_stage_item_key"


def upgrade() -> None:
    _replace(BY_RUN, BY_REQUEST, ["stage", "item_key"])


def downgrade() -> None:
    _replace(BY_REQUEST, BY_RUN, ["run_id", "stage", "item_key"])


def _replace(old: str, new: str, columns: list[str]) -> None:
    """Exchange the unique key; claims are of the moment, and no worker runs during a migration."""
    op.execute("DELETE FROM work_item")
    with op.batch_alter_table("work_item") as table:
        table.drop_constraint(op.f(old), type_="unique")
        table.create_unique_constraint(op.f(new), columns)
