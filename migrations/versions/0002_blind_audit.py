"""Blind audit: random draws of latents; who entered a decision in a shared stream.

Revision: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_draw",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("comparison_id", sa.Integer(), nullable=False),
        sa.Column("side", sa.String(16), nullable=False),
        sa.Column("seed", sa.Integer(), nullable=False),
        sa.Column("n_drawn", sa.Integer(), nullable=False),
        sa.Column("n_population", sa.Integer(), nullable=False),
        sa.Column("drawn_by", sa.String(200), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("side IN ('target', 'reference')", name=op.f("ck_audit_draw_side")),
        sa.CheckConstraint(
            "n_drawn >= 1 AND n_drawn <= n_population",
            name=op.f("ck_audit_draw_drawn_of_population"),
        ),
        sa.ForeignKeyConstraint(
            ["comparison_id"],
            ["comparison.id"],
            name=op.f("fk_audit_draw_comparison_id_comparison"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_draw")),
    )
    op.create_index(
        op.f("ix_audit_draw_comparison_id_side"), "audit_draw", ["comparison_id", "side"]
    )
    op.create_table(
        "audit_member",
        sa.Column("audit_draw_id", sa.Integer(), nullable=False),
        sa.Column("latent_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["audit_draw_id"],
            ["audit_draw.id"],
            name=op.f("fk_audit_member_audit_draw_id_audit_draw"),
        ),
        sa.ForeignKeyConstraint(
            ["latent_id"], ["latent.id"], name=op.f("fk_audit_member_latent_id_latent")
        ),
        sa.PrimaryKeyConstraint("audit_draw_id", "latent_id", name=op.f("pk_audit_member")),
        sa.UniqueConstraint(
            "audit_draw_id", "position", name=op.f("uq_audit_member_audit_draw_id_position")
        ),
    )
    op.create_index(op.f("ix_audit_member_latent_id"), "audit_member", ["latent_id"])
    op.add_column("review_event", sa.Column("entered_by", sa.String(200), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("review_event") as table:
        table.drop_column("entered_by")
    op.drop_table("audit_member")
    op.drop_table("audit_draw")
