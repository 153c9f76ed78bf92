"""What a section of the report's page is, and how the sections of a page are put in order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from crosscoder.registry import Registry

if TYPE_CHECKING:
    from jinja2 import Environment, Template
    from markupsafe import Markup

    from labeler.report.html import Page, PageComparison


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
    "report section",
    "difflens.report_sections",
    {
        "change-plot": "labeler.report.sections.change:ChangePlotSection",
        "change-table": "labeler.report.sections.change:ChangeTableSection",
        "reading-notes": "labeler.report.sections.change:ReadingNotesSection",
        "detectable": "labeler.report.sections.change:DetectableSection",
        "null-runs": "labeler.report.sections.validation:NullRunsSection",
        "planted": "labeler.report.sections.change:PlantedSection",
        "isolation": "labeler.report.sections.provenance:IsolationSection",
        "judge": "labeler.report.sections.provenance:JudgeSection",
        "scores": "labeler.report.sections.validation:ScoresSection",
        "judges-agreement": "labeler.report.sections.validation:JudgesAgreementSection",
        "agreement": "labeler.report.sections.validation:AgreementSection",
        "correction": "labeler.report.sections.validation:CorrectionSection",
        "ways": "labeler.report.sections.robustness:WaysSection",
        "sweep": "labeler.report.sections.robustness:SweepSection",
        "latents": "labeler.report.sections.provenance:LatentsSection",
        "provenance": "labeler.report.sections.provenance:ProvenanceSection",
        "other-study": "labeler.report.sections.studies:OtherStudySection",
        "left-out": "labeler.report.sections.studies:LeftOutSection",
    },
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
