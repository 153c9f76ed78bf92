"""Sections on what the numbers rest on: isolation, judge, every latent, runs and hashes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labeler.report.sections.base import (
    ISOLATION,
    JUDGE,
    LATENTS,
    PROVENANCE,
    REPORT_SECTIONS,
    ReportSection,
)

if TYPE_CHECKING:
    from labeler.report.html import PageComparison, Section
    from labeler.report.model import ReportData


@REPORT_SECTIONS.register("isolation")
class IsolationSection(ReportSection):
    """The rule of each side, how many latents passed, and the crosscoders."""

    chapter = ISOLATION
    order = 10

    def model(self, comparison: PageComparison) -> ReportData:
        """The comparison."""
        return comparison.data


@REPORT_SECTIONS.register("judge")
class JudgeSection(ReportSection):
    """The active judge and how many latents it labelled."""

    chapter = JUDGE
    order = 10

    def model(self, comparison: PageComparison) -> ReportData:
        """The comparison."""
        return comparison.data


@REPORT_SECTIONS.register("latents")
class LatentsSection(ReportSection):
    """Every latent under its category, with its evidence."""

    chapter = LATENTS
    order = 10

    def model(self, comparison: PageComparison) -> tuple[Section, ...]:
        """Latents by groups of categories."""
        return comparison.sections


@REPORT_SECTIONS.register("provenance")
class ProvenanceSection(ReportSection):
    """Runs, hashes and the SQL behind the table."""

    chapter = PROVENANCE
    order = 10

    def model(self, comparison: PageComparison) -> ReportData:
        """The comparison."""
        return comparison.data
