"""The category table from the queue in memory: current with every decision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labeler.review.table import Mask, QueueTable
from labeler.sections.counting import ReportSection
from taxonomy.significance import ALPHA

if TYPE_CHECKING:
    from taxonomy.change import CategoryChange

COUNTED: Mapping[str, Callable[[QueueTable], Mask]] = {
    "labelled": QueueTable.labelled,
    "assigned": QueueTable.assigned,
    "isolated": QueueTable.isolated,
}
"""Which latents a share is a share of, by `report.denominator`."""


@dataclass(frozen=True)
class ChangeRow:
    """One category: its change, and how much of it people have looked at."""

    name: str
    change: CategoryChange
    n_reviewed: int
    n_latents: int

    @property
    def reviewed_share(self) -> float | None:
        """Share of the category's latents whose label is a reviewer's; None without any."""
        return self.n_reviewed / self.n_latents if self.n_latents else None

    @property
    def is_empty(self) -> bool:
        """Whether neither side has a latent of the category."""
        return self.n_latents == 0


def change_rows(table: QueueTable, report: ReportSection) -> list[ChangeRow]:
    """Every category of the version in force, each group before its categories.

    Counted and tested as `[report]` says, by the function that the report itself calls.
    """
    from taxonomy.change import CategoryCounts, change_statistics

    counted = COUNTED[report.denominator](table)
    target, reference = table.is_target & counted, ~table.is_target & counted
    totals = int(target.sum()), int(reference.sum())
    counts = {
        name: table.count_by("category", mask, "")
        for name, mask in {
            "target": target,
            "reference": reference,
            "reviewed": table.reviewed & counted,
            "all": counted,
        }.items()
    }
    rows = [
        CategoryCounts(
            category=slug,
            level=1 if leaf.parent is None else 2,
            parent=leaf.parent,
            target_count=counts["target"][slug],
            target_total=totals[0],
            reference_count=counts["reference"][slug],
            reference_total=totals[1],
        )
        for slug, leaf in table.in_tree_order()
    ]
    return [
        ChangeRow(
            name=table.categories[change.category].name,
            change=change,
            n_reviewed=counts["reviewed"][change.category],
            n_latents=counts["all"][change.category],
        )
        for change in change_statistics(rows, ALPHA, report.test, detectable=False)
    ]
