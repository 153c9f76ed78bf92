"""The sections of the report's page: what a section is, their order, and the built-in ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from crosscoder.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2 import Environment, Template
    from markupsafe import Markup

    from labeler.labeling.agreement import AgreementRow
    from labeler.report.behaviour import BehaviourResults
    from labeler.report.compare import SideBySide
    from labeler.report.effects import EffectResults
    from labeler.report.html import ComparisonFigures, Page, PageComparison, Section
    from labeler.report.model import (
        CategoryRow,
        ChangeTable,
        JudgeVersusHuman,
        ReportData,
        Robustness,
        ValidationResults,
    )
    from labeler.report.robustness import Sweep
    from labeler.store.comparisons import NullRun, StudyComparisons
    from taxonomy.robustness import Correction


@dataclass(frozen=True)
class Chapter:
    """A heading of a comparison, with sections under it; chapters stand by their `order`."""

    name: str
    """End of its anchor."""
    label: str
    """What the table of contents calls it."""
    title: str
    order: int
    is_optional: bool = False
    """Whether some comparisons do without it."""


CHANGE = Chapter("change", "Changes", "Change of each category", 10)
EFFECT = Chapter("effect", "Effect", "What the latents do to the output", 12, is_optional=True)
BEHAVIOUR = Chapter(
    "behaviour", "Behaviour", "What the models do on held-out prompts", 15, is_optional=True
)
PLANTED = Chapter("planted", "Planted", "Planted directions", 20, is_optional=True)
ISOLATION = Chapter("isolation", "Isolation", "How the latents were isolated", 30)
JUDGE = Chapter("judge", "Judge", "Who judged, and how much", 40)
SENSITIVITY = Chapter(
    "sensitivity", "Robustness", "What the conclusions survive", 50, is_optional=True
)
LATENTS = Chapter("latents", "Latents", "Every latent", 60)
PROVENANCE = Chapter("provenance", "Reproduce", "How to reproduce every number", 70)


class ReportSection:
    """A part of the page: a subclass registers itself in REPORT_SECTIONS.

    Its template sees what `model` returns as `model`, the comparison as `comparison`, with its
    figures and anchor prefix (`comparison.key`), and the names that all templates see.
    """

    chapter: ClassVar[Chapter | None]
    """Where it stands in each comparison; None = once, after all comparisons."""
    order: ClassVar[int]
    """Place among the sections of its chapter."""
    template: ClassVar[str | None] = None
    """Its template; without it, the file `templates/sections/NAME.html.j2`."""
    layout: ClassVar[str] = "    {}\n"
    """How its text stands in the page's source."""

    def model(self, shown: Any) -> Any:
        """What the template shows of a PageComparison, or without a chapter of the Page.

        None leaves the section out.
        """
        raise NotImplementedError


REPORT_SECTIONS: Registry[type[ReportSection]] = Registry(
    "report section", "difflens.report_sections"
)
"""Sections by their names; `order` and not this list says where each stands."""


@dataclass(frozen=True)
class FilledChapter(Chapter):
    """A chapter with the text of its sections; empty where a comparison does without it."""

    sections: Markup | str = ""


def fill_chapters(environment: Environment, comparison: PageComparison) -> list[FilledChapter]:
    """The chapters of a comparison in their order."""
    by_chapter: dict[Chapter, list[str]] = defaultdict(list)
    for name, section in _ordered():
        if section.chapter is not None:
            by_chapter[section.chapter].append(name)
    return [
        FilledChapter(**vars(chapter), sections=_rendered(environment, names, comparison))
        for chapter, names in sorted(by_chapter.items(), key=lambda item: item[0].order)
    ]


def fill_page(environment: Environment, page: Page) -> Markup:
    """The sections that stand once, after all comparisons."""
    names = [name for name, section in _ordered() if section.chapter is None]
    return _rendered(environment, names, page)


def _ordered() -> list[tuple[str, type[ReportSection]]]:
    sections = [(name, REPORT_SECTIONS.get(name)) for name in REPORT_SECTIONS.names()]
    return sorted(sections, key=lambda item: item[1].order)


def _rendered(
    environment: Environment, names: Iterable[str], shown: PageComparison | Page
) -> Markup:
    from markupsafe import Markup

    text = ""
    for name in names:
        section = REPORT_SECTIONS.get(name)()
        model = section.model(shown)
        if model is not None:
            template = _template(environment, name, section)
            text += section.layout.format(template.render(model=model, comparison=shown))
    # Escaped by the templates: their environment escapes every text.
    return Markup(text)


def _template(environment: Environment, name: str, section: ReportSection) -> Template:
    if section.template is not None:
        return environment.from_string(section.template)
    return environment.get_template(f"sections/{name}.html.j2")


class TableSection(ReportSection):
    """A section that shows the change table."""

    def model(self, comparison: PageComparison) -> ChangeTable:
        """The change table."""
        return comparison.data.table


class ComparisonSection(ReportSection):
    """A section that shows all that is known of the comparison."""

    def model(self, comparison: PageComparison) -> ReportData:
        """The comparison."""
        return comparison.data


@REPORT_SECTIONS.register("change-plot")
class ChangePlotSection(ReportSection):
    """The change of each category as a forest plot."""

    chapter = CHANGE
    order = 10

    def model(self, comparison: PageComparison) -> ComparisonFigures:
        """The figures of the comparison."""
        return comparison.figures


@REPORT_SECTIONS.register("change-table")
class ChangeTableSection(TableSection):
    """Counts, shares, change and verdict of each category."""

    chapter = CHANGE
    order = 20


@dataclass(frozen=True)
class DocumentsModel:
    """What the text shows and would have to be."""

    sentence: str
    rows: tuple[CategoryRow, ...]


@REPORT_SECTIONS.register("documents")
class DocumentsSection(ReportSection):
    """How much text each change would need."""

    chapter = CHANGE
    order = 22

    def model(self, comparison: PageComparison) -> DocumentsModel | None:
        """The advice where the sides were drawn."""
        from labeler.report.documents import advised_rows, document_sentence

        table = comparison.data.table
        sentence = document_sentence(table)
        return None if sentence is None else DocumentsModel(sentence, advised_rows(table))


@REPORT_SECTIONS.register("mean-shift")
class MeanShiftSection(TableSection):
    """By how much the target uses the latents of each category more strongly."""

    chapter = CHANGE
    order = 25


@REPORT_SECTIONS.register("seeds")
class SeedsSection(ReportSection):
    """The change of each category by every training seed alone."""

    chapter = CHANGE
    order = 27

    def model(self, comparison: PageComparison) -> ChangeTable | None:
        """The change table where it is over several seeds."""
        return comparison.data.table if comparison.data.table.seeds else None


@REPORT_SECTIONS.register("reading-notes")
class ReadingNotesSection(TableSection):
    """What the columns mean and how the verdicts are made."""

    chapter = CHANGE
    order = 30


@REPORT_SECTIONS.register("detectable")
class DetectableSection(TableSection):
    """The smallest changes that this many latents could have shown."""

    chapter = CHANGE
    order = 40


@REPORT_SECTIONS.register("planted")
class PlantedSection(ReportSection):
    """Known directions that the changes are checked against."""

    chapter = PLANTED
    order = 10

    def model(self, comparison: PageComparison) -> ChangeTable | None:
        """The change table where study.toml names such directions."""
        return comparison.data.table if comparison.data.table.planted else None


@REPORT_SECTIONS.register("effect")
class EffectSection(ReportSection):
    """What sides and categories restore and carry of the output gap, against random latents."""

    chapter = EFFECT
    order = 10

    def model(self, comparison: PageComparison) -> EffectResults | None:
        """The effects, where they were measured."""
        return comparison.data.table.effects


@REPORT_SECTIONS.register("behaviour")
class BehaviourSection(ReportSection):
    """The change of behaviour next to that of the latents."""

    chapter = BEHAVIOUR
    order = 10

    def model(self, comparison: PageComparison) -> BehaviourResults | None:
        """The changes, where the models answered prompts."""
        return comparison.data.table.behaviour


@REPORT_SECTIONS.register("null-runs")
class NullRunsSection(ReportSection):
    """What was called a change where nothing differs."""

    chapter = CHANGE
    order = 50
    layout = "{}"

    def model(self, comparison: PageComparison) -> tuple[NullRun, ...]:
        """The stored null runs; those that are studies stand in one table beside the study."""
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


@REPORT_SECTIONS.register("isolation")
class IsolationSection(ComparisonSection):
    """The rule of each side, how many latents passed, and the crosscoders."""

    chapter = ISOLATION
    order = 10


@REPORT_SECTIONS.register("judge")
class JudgeSection(ComparisonSection):
    """The active judge and how many latents it labelled."""

    chapter = JUDGE
    order = 10


@REPORT_SECTIONS.register("latents")
class LatentsSection(ReportSection):
    """Every latent under its category, with its evidence."""

    chapter = LATENTS
    order = 10

    def model(self, comparison: PageComparison) -> tuple[Section, ...]:
        """Latents by groups of categories."""
        return comparison.sections


@REPORT_SECTIONS.register("provenance")
class ProvenanceSection(ComparisonSection):
    """Runs, hashes and the SQL behind the table."""

    chapter = PROVENANCE
    order = 10


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
