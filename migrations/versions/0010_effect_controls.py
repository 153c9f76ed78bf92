"""How near an effect's controls are, on which documents it was tested, and causal equivalence.

Revision: 0.2.0_effect_controls
Revises: 0.2.0_nulls
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0.2.0_effect_controls"
down_revision = "0.2.0_nulls"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("latent_effect", sa.Column("equivalence", sa.Double()))
    op.add_column("category_effect", sa.Column("control_magnitude", sa.Double()))
    op.add_column("category_effect", sa.Column("on_half", sa.Boolean()))


def downgrade() -> None:
    op.drop_column("category_effect", "on_half")
    op.drop_column("category_effect", "control_magnitude")
    op.drop_column("latent_effect", "equivalence")
