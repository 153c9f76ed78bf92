"""The category table from the queue in memory: current with every decision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from labeler.review.table import Leaf, Mask, QueueTable
from labeler.sections.counting import ReportSection
from taxonomy.counts import CategoryChange, CategoryCounts
from taxonomy.significance import ALPHA

COUNTED: Mapping[str, Callable[[QueueTable], Mask]] = {
    "labelled": QueueTable.labelled,
    "assigned": QueueTable.assigned,
    "isolated": QueueTable.isolated,
}
"""Which latents a share is a share of, by `report.denominator`."""


@dataclass(frozen=True)
class ReviewedCategory:
    """How much of one category people have looked at."""

    category: str
    name: str
    level: int
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


@dataclass(frozen=True)
class ChangeRow(ReviewedCategory):
    """One category with its change."""

    change: CategoryChange


def reviewed_rows(table: QueueTable, report: ReportSection) -> list[ReviewedCategory]:
    """Every category of the version in force, each group before its categories; none is tested."""
    counted = COUNTED[report.denominator](table)
    reviewed = table.count_by("category", table.reviewed & counted, "")
    every = table.count_by("category", counted, "")
    return [
        ReviewedCategory(slug, leaf.name, _level(leaf), reviewed[slug], every[slug])
        for slug, leaf in table.in_tree_order()
    ]


def change_rows(table: QueueTable, report: ReportSection) -> list[ChangeRow]:
    """The same categories, counted on each side and tested as `[report]` says.

    The report itself calls the same function.
    """
    from taxonomy.change import change_statistics

    counted = COUNTED[report.denominator](table)
    target, reference = table.is_target & counted, ~table.is_target & counted
    totals = int(target.sum()), int(reference.sum())
    on_target = table.count_by("category", target, "")
    on_reference = table.count_by("category", reference, "")
    rows = [
        CategoryCounts(
            category=slug,
            level=_level(leaf),
            parent=leaf.parent,
            target_count=on_target[slug],
            target_total=totals[0],
            reference_count=on_reference[slug],
            reference_total=totals[1],
        )
        for slug, leaf in table.in_tree_order()
    ]
    changes = change_statistics(rows, ALPHA, report.test, detectable=False)
    return [
        ChangeRow(**vars(row), change=change)
        for row, change in zip(reviewed_rows(table, report), changes, strict=True)
    ]


def _level(leaf: Leaf) -> int:
    return 1 if leaf.parent is None else 2
