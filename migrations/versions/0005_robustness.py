"""Statistics: ways of counting, judge error taken out, thresholds swept.

Revision: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ADDED = (
    ("situation", sa.String(32)),
    ("test", sa.String(16)),
    ("target_effective", sa.Double()),
    ("reference_effective", sa.Double()),
    ("detectable_rise", sa.Double()),
    ("detectable_fall", sa.Double()),
    ("is_main", sa.Boolean()),
)
SIDES = ("target", "reference")


def upgrade() -> None:
    for name, kind in ADDED:
        op.add_column("category_change_statistic", sa.Column(name, kind, nullable=True))
    _judge_correction()
    _category_correction()
    _category_sweep()


def downgrade() -> None:
    # What an older version cannot tell from the leading rows must go.
    op.execute(sa.text("DELETE FROM category_change_statistic WHERE is_main IS FALSE"))
    for name in ("category_sweep", "category_correction", "judge_correction"):
        op.drop_table(name)
    with op.batch_alter_table("category_change_statistic") as table:
        for name, _ in ADDED:
            table.drop_column(name)


def _judge_correction() -> None:
    name = "judge_correction"
    op.create_table(
        name,
        sa.Column("id", sa.Integer(), nullable=False),
        *_report_columns(),
        sa.Column("estimand", sa.String(16), nullable=False),
        sa.Column("denominator", sa.String(16), nullable=False),
        sa.Column("refusal", sa.Text(), nullable=True),
        *(
            sa.Column(f"{side}_{part}", kind, nullable=False)
            for side in SIDES
            for part, kind in (
                ("reviewed", sa.Integer()),
                ("judged", sa.Integer()),
                ("is_whole", sa.Boolean()),
            )
        ),
        sa.CheckConstraint(
            "estimand IN ('redraws', 'these latents')", name=op.f(f"ck_{name}_estimand")
        ),
        *_report_keys(name),
        sa.UniqueConstraint(
            "report_run_id", "comparison_id", name=op.f(f"uq_{name}_report_run_id_comparison_id")
        ),
    )
    op.create_index(op.f(f"ix_{name}_comparison_id"), name, ["comparison_id"])


def _category_correction() -> None:
    name = "category_correction"
    number, optional = sa.Double(), {"nullable": True}
    op.create_table(
        name,
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("judge_correction_id", sa.Integer(), nullable=False),
        sa.Column("category", sa.String(200), nullable=False),
        sa.Column("parent", sa.String(200), **optional),
        sa.Column("level", sa.Integer(), nullable=False),
        *(
            sa.Column(f"{side}_share{end}", number, nullable=False)
            for side in SIDES
            for end in ("", "_low", "_high")
        ),
        *(sa.Column(f"{side}_judge_share", number, **optional) for side in SIDES),
        *(sa.Column(part, number, **optional) for part in ("percent_change", "ci_low", "ci_high")),
        *(sa.Column(part, number, nullable=False) for part in ("p_value", "q_value")),
        *(
            sa.Column(f"{side}_{part}", sa.Integer(), nullable=False)
            for side in SIDES
            for part in ("hits", "positives", "rejections", "negatives")
        ),
        *(sa.Column(part, number, nullable=False) for part in ("alike_p", "alike_q")),
        *(sa.Column(f"{side}_rogan_gladen", number, **optional) for side in SIDES),
        sa.ForeignKeyConstraint(
            ["judge_correction_id"],
            ["judge_correction.id"],
            name=op.f(f"fk_{name}_judge_correction_id_judge_correction"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{name}")),
        sa.UniqueConstraint(
            "judge_correction_id", "category", name=op.f(f"uq_{name}_judge_correction_id_category")
        ),
    )


def _category_sweep() -> None:
    name = "category_sweep"
    op.create_table(
        name,
        sa.Column("id", sa.Integer(), nullable=False),
        *_report_columns(),
        sa.Column("category", sa.String(200), nullable=False),
        sa.Column("swept", sa.String(64), nullable=False),
        sa.Column("threshold", sa.Double(), nullable=False),
        *(
            sa.Column(f"{side}_{part}", sa.Integer(), nullable=False)
            for side in SIDES
            for part in ("count", "total")
        ),
        *(
            sa.Column(part, sa.Double(), nullable=True)
            for part in ("percent_change", "ci_low", "ci_high")
        ),
        sa.Column("stability", sa.String(16), nullable=False),
        sa.CheckConstraint(
            "stability IN ('stable', 'unstable', 'too few to say')",
            name=op.f(f"ck_{name}_stability"),
        ),
        *_report_keys(name),
        sa.UniqueConstraint(
            "report_run_id",
            "comparison_id",
            "category",
            "threshold",
            name="uq_category_sweep_point",
        ),
    )
    op.create_index(op.f(f"ix_{name}_comparison_id"), name, ["comparison_id"])


def _report_columns() -> tuple[sa.Column[object], ...]:
    return (
        sa.Column("report_run_id", sa.Integer(), nullable=False),
        sa.Column("comparison_id", sa.Integer(), nullable=False),
        sa.Column("computed_at", sa.DateTime(timezone=True), nullable=False),
    )


def _report_keys(name: str) -> tuple[sa.Constraint, ...]:
    return (
        sa.ForeignKeyConstraint(
            ["report_run_id"], ["run.id"], name=op.f(f"fk_{name}_report_run_id_run")
        ),
        sa.ForeignKeyConstraint(
            ["comparison_id"], ["comparison.id"], name=op.f(f"fk_{name}_comparison_id_comparison")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{name}")),
    )
