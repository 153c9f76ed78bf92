"""Answers to held-out prompts, their classes, the change they show, and what answers look like.

Revision: 0.2.0_behaviour
Revises: 0.2.0_relative
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0.2.0_behaviour"
down_revision = "0.2.0_relative"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("category", sa.Column("behaviour", sa.Text()))
    op.create_table(
        "behaviour_answer",
        _number("id"),
        _text("answer_key", 64),
        _number("run_id"),
        _text("model", 200),
        _text("prompt_id", 300),
        _number("sample"),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("text", sa.Text()),
        sa.Column("is_finished", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_behaviour_answer"),
        _link("behaviour_answer", "run_id", "run"),
        sa.UniqueConstraint("answer_key", name="uq_behaviour_answer_answer_key"),
    )
    op.create_table(
        "behaviour_label",
        *(_number(name) for name in ("id", "run_id", "behaviour_answer_id")),
        _text("category", 200),
        _text("outcome", 16),
        _text("classified_by", 16),
        sa.Column("reason", sa.Text()),
        sa.Column("judge_call_id", sa.Integer()),
        sa.PrimaryKeyConstraint("id", name="pk_behaviour_label"),
        _link("behaviour_label", "run_id", "run"),
        _link("behaviour_label", "behaviour_answer_id", "behaviour_answer"),
        _link("behaviour_label", "judge_call_id", "judge_call"),
        sa.UniqueConstraint(
            "run_id",
            "behaviour_answer_id",
            "category",
            name="uq_behaviour_label_run_id_behaviour_answer_id_category",
        ),
    )
    op.create_index(
        "ix_behaviour_label_behaviour_answer_id", "behaviour_label", ["behaviour_answer_id"]
    )
    op.create_table(
        "category_behaviour",
        *(_number(name) for name in ("id", "run_id", "comparison_id", "taxonomy_version_id")),
        *(_text(name, 200) for name in ("target_model", "reference_model", "category")),
        *(_number(f"n_{name}") for name in ("prompts", "left_out", "samples", "more", "less")),
        *(
            sa.Column(name, sa.Double())
            for name in (
                *("target_share", "reference_share"),
                *("difference_points", "difference_low", "difference_high"),
                *("p_value", "q_value"),
            )
        ),
        _text("verdict", 32),
        sa.PrimaryKeyConstraint("id", name="pk_category_behaviour"),
        _link("category_behaviour", "run_id", "run"),
        _link("category_behaviour", "comparison_id", "comparison"),
        _link("category_behaviour", "taxonomy_version_id", "taxonomy_version"),
        sa.UniqueConstraint(
            "run_id",
            "comparison_id",
            "category",
            name="uq_category_behaviour_run_id_comparison_id_category",
        ),
    )
    op.create_index("ix_category_behaviour_comparison_id", "category_behaviour", ["comparison_id"])


def downgrade() -> None:
    for table in ("category_behaviour", "behaviour_label", "behaviour_answer"):
        op.drop_table(table)
    op.drop_column("category", "behaviour")


def _number(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Integer(), nullable=False)


def _text(name: str, length: int) -> sa.Column[Any]:
    return sa.Column(name, sa.String(length), nullable=False)


def _link(table: str, column: str, to: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{to}.id"], name=f"fk_{table}_{column}_{to}")
