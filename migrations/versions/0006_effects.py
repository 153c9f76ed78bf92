"""What latents and sets of them do to the output.

Revision: 0.2.0_effects
Revises: 0.2.0_behaviour
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0.2.0_effects"
down_revision = "0.2.0_behaviour"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "latent_effect",
        *_integers("id", "run_id", "latent_id", "target_model_id", "reference_model_id"),
        *_numbers("attribution", "attribution_low", "attribution_high"),
        sa.Column("magnitude", sa.Double(), nullable=False),
        *_integers("rank"),
        sa.PrimaryKeyConstraint("id", name="pk_latent_effect"),
        *_links("latent_effect", ("latent_id", "latent")),
        sa.UniqueConstraint(
            "latent_id", "target_model_id", "reference_model_id", name="uq_latent_effect_pair"
        ),
    )
    op.create_table(
        "category_effect",
        *_integers("id", "run_id", "comparison_id", "target_model_id", "reference_model_id"),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("scope", sa.String(16), nullable=False),
        sa.Column("is_main", sa.Boolean(), nullable=False),
        *_integers("n_latents", "n_documents", "n_tokens"),
        *_numbers("gap"),
        *_numbers("restored", "restored_low", "restored_high"),
        *_numbers("carried", "carried_low", "carried_high"),
        *_numbers("first_order", "first_order_low", "first_order_high"),
        *_integers("n_controls"),
        *_numbers("control_mean", "control_low", "control_high", "p_value", "q_value"),
        *_integers("n_patched_controls"),
        *_numbers("restored_control_mean", "restored_control_low", "restored_control_high"),
        *_numbers("restored_p"),
        *_numbers("carried_control_mean", "carried_control_low", "carried_control_high"),
        *_numbers("carried_p"),
        sa.PrimaryKeyConstraint("id", name="pk_category_effect"),
        *_links("category_effect", ("comparison_id", "comparison")),
        sa.UniqueConstraint(
            "comparison_id",
            "target_model_id",
            "reference_model_id",
            "kind",
            "name",
            "scope",
            name="uq_category_effect_row",
        ),
    )


def _integers(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.Integer(), nullable=False) for name in names]


def _numbers(*names: str) -> list[sa.Column[float]]:
    return [sa.Column(name, sa.Double()) for name in names]


def _links(table: str, *own: tuple[str, str]) -> list[sa.ForeignKeyConstraint]:
    return [
        *(
            sa.ForeignKeyConstraint([column], [f"{other}.id"], name=f"fk_{table}_{column}_{other}")
            for column, other in (("run_id", "run"), *own)
        ),
        *(
            sa.ForeignKeyConstraint(
                [f"{side}_model_id"], ["subject_model.id"], name=f"fk_{table}_{side}"
            )
            for side in ("target", "reference")
        ),
    ]


def downgrade() -> None:
    op.drop_table("category_effect")
    op.drop_table("latent_effect")
