"""Sections on what labels are checked with: null runs, scores, controls, other judges, people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labeler.report.sections.base import CHANGE, JUDGE, REPORT_SECTIONS, ReportSection

if TYPE_CHECKING:
    from labeler.labeling.agreement import AgreementRow
    from labeler.report.html import PageComparison
    from labeler.report.model import ValidationResults
    from labeler.report.rows import JudgeVersusHuman
    from labeler.store.null_runs import NullRun
    from taxonomy.robustness import Correction


@REPORT_SECTIONS.register("null-runs")
class NullRunsSection(ReportSection):
    """What was called a change where nothing differs."""

    chapter = CHANGE
    order = 50
    layout = "{}"

    def model(self, comparison: PageComparison) -> tuple[NullRun, ...]:
        """The stored null runs."""
        return comparison.data.robustness.validation.null_runs


@REPORT_SECTIONS.register("scores")
class ScoresSection(ReportSection):
    """Own against shuffled explanations, and the labels of control latents."""

    chapter = JUDGE
    order = 20

    def model(self, comparison: PageComparison) -> ValidationResults:
        """Scores and controls."""
        return comparison.data.robustness.validation


@REPORT_SECTIONS.register("judges-agreement")
class JudgesAgreementSection(ReportSection):
    """Krippendorff's alpha of the judges."""

    chapter = JUDGE
    order = 30

    def model(self, comparison: PageComparison) -> tuple[AgreementRow, ...]:
        """One row for each set of raters."""
        return comparison.data.agreement


@REPORT_SECTIONS.register("agreement")
class AgreementSection(ReportSection):
    """How often judge and reviewers agree."""

    chapter = JUDGE
    order = 40

    def model(self, comparison: PageComparison) -> JudgeVersusHuman:
        """Agreement on each side."""
        return comparison.data.robustness.agreement


@REPORT_SECTIONS.register("correction")
class CorrectionSection(ReportSection):
    """The change without the judge's errors."""

    chapter = JUDGE
    order = 50

    def model(self, comparison: PageComparison) -> Correction:
        """The corrected shares, or why there are none."""
        return comparison.data.robustness.correction
