"""Sections on what the conclusions survive: other ways of counting, stricter isolation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labeler.report.sections.base import REPORT_SECTIONS, SENSITIVITY, ReportSection

if TYPE_CHECKING:
    from labeler.report.html import PageComparison
    from labeler.report.model import Robustness
    from labeler.report.robustness import Sweep


@REPORT_SECTIONS.register("ways")
class WaysSection(ReportSection):
    """The change counted in every other way."""

    chapter = SENSITIVITY
    order = 10

    def model(self, comparison: PageComparison) -> Robustness:
        """All checks of the comparison."""
        return comparison.data.robustness


@REPORT_SECTIONS.register("sweep")
class SweepSection(ReportSection):
    """The change over ever stricter isolation."""

    chapter = SENSITIVITY
    order = 20

    def model(self, comparison: PageComparison) -> Sweep:
        """The swept categories, or why there are none."""
        return comparison.data.robustness.sweep
