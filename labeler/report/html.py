"""The page: one self-contained HTML file without scripts or requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from labeler.report.answer import Conclusion, answer_of, computed_sentence
from labeler.report.checks import check_sentences
from labeler.report.compare_terminal import summary
from labeler.report.figures import Layout, forest_plot
from labeler.report.grouping import Section, sections_of
from labeler.report.highlight import largest_activation, runs_of
from labeler.report.isolation_figures import delta_norm_histogram, nu_scatter
from labeler.report.latent_sets import LatentSetView
from labeler.report.model import ReportData
from labeler.report.svg import inline_svg
from labeler.report.sweep_figure import chosen_panels, sweep_plot
from labeler.templates import page_environment
from labeler.text import (
    listed,
    one_line,
)

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

    from labeler.report.compare import SideBySide
    from labeler.store.study_comparisons import StudyComparisons

PACKAGE = "labeler.report"
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)
"""Nothing is loaded and nothing runs; inline styles carry the strength of highlights."""
VERDICT_SIGNS = {
    "up": "\u25b2",
    "down": "\u25bc",
    "no evidence": "\u25cb",
    "too few to say": "\u00d7",
}
KIND_TITLES = {
    "top": "strongest",
    "quantile": "lower quantile",
    "negative": "does not fire",
    "other_model": "other model",
}
JUDGE_NOTES = {
    "evidence": (
        "An embedded judge, no language model: the explanation is assembled from the evidence's "
        "own statistics, the category is the nearest definition by sentence vectors."
    ),
    "openai": "A language model behind an OpenAI-compatible endpoint.",
    "import": "No judge of this study: the labels were imported from a file.",
    "scripted": "Scripted answers, as tests use them.",
}
LONGEST_EXPLANATION = 600


@dataclass(frozen=True)
class Figure:
    """One figure, as a file and inside the page."""

    file_name: str
    document: str
    """SVG document."""
    inline: Markup
    """SVG element."""


@dataclass(frozen=True)
class ComparisonFigures:
    """The figures of one comparison; None where there is nothing to draw."""

    change_wide: Figure | None
    change_narrow: Figure | None
    nu: tuple[Figure | None, Figure | None]
    """Target, reference."""
    delta_norm: tuple[Figure | None, Figure | None]
    sweep_wide: Figure | None = None
    sweep_narrow: Figure | None = None

    @property
    def all(self) -> tuple[Figure, ...]:
        """Every figure there is."""
        figures = (
            self.change_wide,
            self.change_narrow,
            *self.nu,
            *self.delta_norm,
            self.sweep_wide,
            self.sweep_narrow,
        )
        return tuple(figure for figure in figures if figure is not None)


@dataclass(frozen=True)
class PageComparison:
    """One comparison as the template sees it."""

    key: str
    """Prefix of its anchors."""
    data: ReportData
    answer: Conclusion
    sections: tuple[Section, ...]
    figures: ComparisonFigures

    @property
    def listed(self) -> frozenset[str]:
        """Categories and groups whose latents the page lists."""
        groups = {group.key for section in self.sections for group in section.groups}
        return frozenset(groups | {section.key for section in self.sections})


def page_comparisons(reports: Sequence[ReportData]) -> tuple[PageComparison, ...]:
    """Draw the figures and group the latents of every comparison."""
    return tuple(
        PageComparison(
            key=f"c{number}",
            data=report,
            answer=answer_of(report.table),
            sections=sections_of(report.table, report.latents),
            figures=_figures(report, f"c{number}"),
        )
        for number, report in enumerate(reports, start=1)
    )


def render_page(
    comparisons: Sequence[PageComparison],
    *,
    study: str,
    title: str,
    beside: Sequence[SideBySide] = (),
    stale: Sequence[str] = (),
    of_study: StudyComparisons | None = None,
) -> str:
    """The whole page."""
    template = _environment().get_template("report.html.j2")
    return template.render(
        comparisons=comparisons,
        study=study,
        title=title,
        beside=beside,
        stale=stale,
        of_study=of_study,
        policy=CONTENT_SECURITY_POLICY,
        css=_style(),
    )


def _figures(report: ReportData, key: str) -> ComparisonFigures:
    target, reference = report.sets
    return ComparisonFigures(
        change_wide=_change_figure(report, key, "wide"),
        change_narrow=_change_figure(report, key, "narrow"),
        nu=(_nu_figure(target, key), _nu_figure(reference, key)),
        delta_norm=(_norm_figure(target, key), _norm_figure(reference, key)),
        sweep_wide=_sweep_figure(report, key, "wide"),
        sweep_narrow=_sweep_figure(report, key, "narrow"),
    )


def _change_figure(report: ReportData, key: str, layout: Layout) -> Figure | None:
    table = report.table
    rows = [row for row in table.filled if not row.is_empty]
    if not rows:
        return None
    name = f"{key}-change" if layout == "wide" else f"{key}-change-narrow"
    sides = f"{one_line(table.target)} against {one_line(table.reference)}"
    title = f"Change of each category's share, {sides}, with 95% intervals"
    return _figure(forest_plot(rows, layout, name), name, title)


def _nu_figure(latents: LatentSetView, key: str) -> Figure | None:
    if latents.cloud is None:
        return None
    name = f"{key}-nu-{latents.side}"
    title = f"nu_error over nu_reconstruction of every latent, {one_line(latents.label)} side"
    return _figure(nu_scatter(latents, latents.cloud, name), name, title)


def _norm_figure(latents: LatentSetView, key: str) -> Figure | None:
    if latents.cloud is None:
        return None
    name = f"{key}-delta-norm-{latents.side}"
    title = f"Distribution of delta_norm, {one_line(latents.label)} side"
    return _figure(delta_norm_histogram(latents, latents.cloud, name), name, title)


def _sweep_figure(report: ReportData, key: str, layout: Layout) -> Figure | None:
    sweep = report.robustness.sweep
    if not chosen_panels(sweep.categories):
        return None
    name = f"{key}-sweep" if layout == "wide" else f"{key}-sweep-narrow"
    title = "Change of each category as the isolation gets stricter, with 95% bands"
    document = sweep_plot(sweep.categories, report.category_names, sweep.swept, layout, name)
    return _figure(document, name, title)


def _figure(document: str, name: str, title: str) -> Figure:
    from markupsafe import Markup

    # The document is matplotlib's, which escapes every text it draws.
    return Figure(f"{name}.svg", document, Markup(inline_svg(document, name, title)))


@cache
def _environment() -> Environment:
    # Compiling the templates takes longer than filling them in.
    environment = page_environment(PACKAGE)
    environment.filters.update(listed=listed, capitalize_first=_capitalized)
    environment.globals.update(
        runs_of=runs_of,
        largest_activation=largest_activation,
        verdict_signs=VERDICT_SIGNS,
        kind_titles=KIND_TITLES,
        judge_notes=JUDGE_NOTES,
        longest_explanation=LONGEST_EXPLANATION,
        check_sentences=check_sentences,
        compare_summary=summary,
        computed_sentence=computed_sentence,
        n_panels=lambda swept: len(chosen_panels(swept)),
    )
    return environment


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def _style() -> Markup:
    from markupsafe import Markup

    return Markup(
        resources.files(PACKAGE).joinpath("templates/report.css").read_text(encoding="utf-8")
    )
