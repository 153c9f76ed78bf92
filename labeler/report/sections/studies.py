"""Sections that stand once: the comparison with another study, and what the report leaves out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labeler.report.sections.base import REPORT_SECTIONS, ReportSection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from labeler.report.compare import SideBySide
    from labeler.report.html import Page
    from labeler.store.comparisons import StudyComparisons


@REPORT_SECTIONS.register("other-study")
class OtherStudySection(ReportSection):
    """Two studies category by category, as `report --compare` asks for."""

    chapter = None
    order = 10
    layout = "{}\n"

    def model(self, page: Page) -> Sequence[SideBySide]:
        """Pairs of comparisons."""
        return page.side_by_side


@REPORT_SECTIONS.register("left-out")
class LeftOutSection(ReportSection):
    """Comparisons that the report does not cover."""

    chapter = None
    order = 20
    layout = "{}"

    def model(self, page: Page) -> StudyComparisons | None:
        """The comparisons of the study, where they are known."""
        return page.of_study
