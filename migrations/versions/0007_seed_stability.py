"""Whether a latent comes again in crosscoders of other seeds.

Revision: 0.2.0_stability
Revises: 0.2.0_effects
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0.2.0_stability"
down_revision = "0.2.0_effects"
branch_labels = None
depends_on = None

COLUMNS = ("p_reappear", "best_cosine", "span_match")


def upgrade() -> None:
    op.add_column("latent", sa.Column("n_seeds", sa.Integer()))
    for name in COLUMNS:
        op.add_column("latent", sa.Column(name, sa.Double()))


def downgrade() -> None:
    for name in ("n_seeds", *COLUMNS):
        op.drop_column("latent", name)
