"""What one comparison's own rule and tests find: latents on its sides, categories called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from labeler.report.comparisons import COUNTING, read_comparisons, read_members
from labeler.report.randomisation import read_randomised_sides
from labeler.report.statistics import category_changes, read_counts
from labeler.store.schema import Comparison
from labeler.study.study_file import StudyConfig
from taxonomy.counts import ALPHA, CategoryChange


@dataclass(frozen=True)
class Findings:
    """The latents isolated on the two sides, and the change of every category."""

    comparison: Comparison
    judge_id: int
    n_target: int
    n_reference: int
    changes: Sequence[CategoryChange]

    @property
    def tested(self) -> list[CategoryChange]:
        """Categories with a latent on a side."""
        return [row for row in self.changes if not row.is_empty]

    @property
    def called(self) -> list[CategoryChange]:
        """Those whose counts are called up or down."""
        return [row for row in self.tested if row.verdict in ("up", "down")]

    @property
    def shifted(self) -> list[CategoryChange]:
        """Categories whose shift is tested; groups are left out."""
        groups = {row.parent for row in self.changes}
        return [
            row
            for row in self.changes
            if row.called_shift_q is not None and row.category not in groups
        ]

    @property
    def shifts_called(self) -> list[CategoryChange]:
        """Those whose shift is distinguishable from zero."""
        return [row for row in self.shifted if (row.called_shift_q or 0.0) < ALPHA]


def read_findings(session: Session, config: StudyConfig, comparison: str) -> Findings:
    """Count and test a labelled comparison as its report does."""
    facts = next(
        facts
        for facts in read_comparisons(session, config.comparison)
        if facts.comparison.name == comparison
    )
    changes = category_changes(
        read_counts(session, comparison, config.report.denominator),
        read_randomised_sides(session, facts.comparison.id, facts.version.id, facts.judge_id),
        COUNTING,
        config.report.denominator,
        alpha=ALPHA,
        test=config.report.test,
        detectable=False,
    )
    members = read_members(session, facts)
    return Findings(
        facts.comparison, facts.judge_id, len(members.target), len(members.reference), changes
    )
