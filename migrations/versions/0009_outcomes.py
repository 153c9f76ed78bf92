"""Outcomes of single requests, and how a judge's server wants to be asked.

The list of outcomes and of statuses lies in the code alone: a further one needs no migration.

Revision: 0009
Revises: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

ENUMERATED = {
    ("judge_call", "status"): ("ok", "parse_error", "refused", "truncated", "transport_error"),
    ("judge_label", "outcome"): ("assigned", "none", "uninterpretable", "error"),
    ("label_sample", "outcome"): ("assigned", "none", "uninterpretable", "error"),
    ("effective_label", "outcome"): ("assigned", "none", "uninterpretable", "error", "unlabelled"),
}


def upgrade() -> None:
    for table, column in ENUMERATED:
        with op.batch_alter_table(table) as batch:
            batch.drop_constraint(op.f(f"ck_{table}_{column}"), type_="check")
    op.create_table(
        "judge_parameters",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("judge_id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["judge_id"], ["judge.id"], name=op.f("fk_judge_parameters_judge_id_judge")
        ),
        sa.ForeignKeyConstraint(
            ["run_id"], ["run.id"], name=op.f("fk_judge_parameters_run_id_run")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_judge_parameters")),
    )
    op.create_index(op.f("ix_judge_parameters_judge_id"), "judge_parameters", ["judge_id"])


def downgrade() -> None:
    op.drop_index(op.f("ix_judge_parameters_judge_id"), "judge_parameters")
    op.drop_table("judge_parameters")
    # What an older version does not know was an error to it.
    op.execute("UPDATE judge_call SET status = 'refused' WHERE status = 'too_long'")
    for table in ("judge_label", "label_sample", "effective_label"):
        op.execute(f"UPDATE {table} SET outcome = 'error' WHERE outcome IN ('too_long', 'refused')")
    for (table, column), values in ENUMERATED.items():
        listed = ", ".join(f"'{value}'" for value in values)
        with op.batch_alter_table(table) as batch:
            batch.create_check_constraint(op.f(f"ck_{table}_{column}"), f"{column} IN ({listed})")
