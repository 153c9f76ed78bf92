"""Sections on the change of each category: the figure, the table, what it could have shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labeler.report.sections.base import CHANGE, PLANTED, REPORT_SECTIONS, ReportSection

if TYPE_CHECKING:
    from labeler.report.html import ComparisonFigures, PageComparison
    from labeler.report.model import ChangeTable


@REPORT_SECTIONS.register("change-plot")
class ChangePlotSection(ReportSection):
    """The change of each category as a forest plot."""

    chapter = CHANGE
    order = 10

    def model(self, comparison: PageComparison) -> ComparisonFigures:
        """The figures of the comparison."""
        return comparison.figures


@REPORT_SECTIONS.register("change-table")
class ChangeTableSection(ReportSection):
    """Counts, shares, change and verdict of each category."""

    chapter = CHANGE
    order = 20

    def model(self, comparison: PageComparison) -> ChangeTable:
        """The change table."""
        return comparison.data.table


@REPORT_SECTIONS.register("reading-notes")
class ReadingNotesSection(ReportSection):
    """What the columns mean and how the verdicts are made."""

    chapter = CHANGE
    order = 30

    def model(self, comparison: PageComparison) -> ChangeTable:
        """The change table."""
        return comparison.data.table


@REPORT_SECTIONS.register("detectable")
class DetectableSection(ReportSection):
    """The smallest changes that this many latents could have shown."""

    chapter = CHANGE
    order = 40

    def model(self, comparison: PageComparison) -> ChangeTable:
        """The change table."""
        return comparison.data.table


@REPORT_SECTIONS.register("planted")
class PlantedSection(ReportSection):
    """Known directions that the changes are checked against."""

    chapter = PLANTED
    order = 10

    def model(self, comparison: PageComparison) -> ChangeTable | None:
        """The change table where study.toml names such directions."""
        return comparison.data.table if comparison.data.table.planted else None
