"""The page: one self-contained HTML file without scripts or requests."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from typing import TYPE_CHECKING

from labeler.judge.base import judge_kind
from labeler.report.answer import Conclusion, answer_of, check_sentences, computed_sentence
from labeler.report.basis import side_sentence
from labeler.report.behaviour import behaviour_sentences
from labeler.report.cards import FIRST_CARDS, cards
from labeler.report.compare import summary
from labeler.report.comparisons import LatentSetView
from labeler.report.documents import documents_text, points_text
from labeler.report.effects import effect_sentences, effect_share
from labeler.report.figures import (
    Layout,
    delta_norm_histogram,
    forest_plot,
    inline_svg,
    nu_scatter,
    shift_scatter,
    shift_t_histogram,
)
from labeler.report.mean_shifts import shift_sentence, worth
from labeler.report.model import ChangeTable, EvidenceView, LatentView, ReportData
from labeler.report.randomisation import PER_SIDE
from labeler.report.sections import fill_chapters, fill_page
from labeler.report.shift_bar import shift_bar
from labeler.report.sweep_figure import chosen_panels, sweep_plot
from labeler.store.outcomes import OUTCOMES
from labeler.store.schema.judging import IMPORT
from labeler.text import (
    MAX_TOKEN_CHARACTERS,
    clip,
    interval_text,
    listed,
    number_text,
    one_line,
    percent_text,
    plural,
    probability_text,
    share_text,
    visible,
)

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

    from labeler.report.compare import SideBySide
    from labeler.store.comparisons import StudyComparisons


@dataclass(frozen=True)
class LatentGroup:
    """The latents of one category, or of one outcome without category."""

    key: str
    title: str
    note: str
    target: tuple[LatentView, ...]
    reference: tuple[LatentView, ...]

    @property
    def size(self) -> int:
        """Latents of both sides."""
        return len(self.target) + len(self.reference)


@dataclass(frozen=True)
class Section:
    """A group of categories with those of its categories that have latents."""

    key: str
    title: str
    groups: tuple[LatentGroup, ...]


def sections_of(table: ChangeTable, latents: Sequence[LatentView]) -> tuple[Section, ...]:
    """Latents under their primary category in the table's order, then those without one."""
    members: dict[str, list[LatentView]] = defaultdict(list)
    for latent in latents:
        members[latent.category or ""].append(latent)
    left: dict[str, list[LatentView]] = defaultdict(list)
    for latent in members[""]:
        left[latent.outcome].append(latent)
    found = []
    for parent in (row for row in table.rows if row.parent is None):
        inside = [row for row in table.rows if parent.category in (row.category, row.parent)]
        groups = tuple(
            _group(row.category, row.name, "", members[row.category])
            for row in inside
            if members[row.category]
        )
        if groups:
            found.append(Section(parent.category, parent.name, groups))
    without = tuple(
        _group(outcome.name, outcome.title, outcome.note, left[outcome.name])
        for outcome in OUTCOMES
        if left[outcome.name]
    )
    return (*found, Section("no-category", "Without a category", without)) if without else (*found,)


def _group(key: str, title: str, note: str, latents: Sequence[LatentView]) -> LatentGroup:
    return LatentGroup(
        key=key,
        title=title,
        note=note,
        target=tuple(latent for latent in latents if latent.side == "target"),
        reference=tuple(latent for latent in latents if latent.side == "reference"),
    )


SPOKEN_ROLES = frozenset({"system", "user", "assistant", "tool"})
"""Roles that are named where they begin; plain text has no speaker."""
DIM_ROLES = frozenset({"template", "bos"})
"""Tokens of the chat template: nobody wrote them, and no latent is measured on them."""
THRESHOLD = 5e-5
"""Activations under this are shown as plain text."""


@dataclass(frozen=True)
class Run:
    """A stretch of text that is shown alike."""

    lines: tuple[str, ...]
    """The text, split at its line breaks."""
    activation: float
    """0 where the latent does not fire."""
    opacity: float
    """0 to 1; 0 where the latent does not fire."""
    is_dim: bool
    speaker: str | None = None
    """The role that begins here, where one does."""


def opacity(activation: float, largest: float) -> float:
    """Strength of the highlight, 0.05 + 0.95 * log10(1 + 9 * activation / largest), at most 1."""
    if activation <= THRESHOLD or largest <= 0:
        return 0.0
    return 0.05 + 0.95 * math.log10(1 + 9 * min(activation / largest, 1.0))


def runs_of(window: EvidenceView, largest: float) -> tuple[Run, ...]:
    """The window as runs; `largest` is the activation shown at full strength."""
    runs: list[Run] = []
    text = ""
    dim, speaker, previous = False, None, None
    for token, role, activation in _clean(window):
        begins = role != previous and role in SPOKEN_ROLES
        previous = role if role in SPOKEN_ROLES else previous
        strength = opacity(activation, largest)
        is_dim = role in DIM_ROLES
        if text and (begins or strength > 0 or is_dim != dim):
            runs.append(_plain(text, dim, speaker))
            text, speaker = "", None
        if begins:
            speaker = role
        if strength > 0:
            runs.append(Run(tuple(token.split("\n")), activation, strength, is_dim, speaker))
            speaker = None
        else:
            text, dim = text + token, is_dim
    if text:
        runs.append(_plain(text, dim, speaker))
    return tuple(runs)


def _plain(text: str, dim: bool, speaker: str | None) -> Run:
    return Run(tuple(text.split("\n")), 0.0, 0.0, dim, speaker)


def _clean(window: EvidenceView) -> Iterator[tuple[str, str, float]]:
    for token, role, activation in zip(
        window.tokens, window.roles, window.activations, strict=True
    ):
        yield clip(visible(token), MAX_TOKEN_CHARACTERS), role, activation


def largest_activation(windows: Sequence[EvidenceView]) -> float:
    """The strongest activation of a latent's windows; 0 without any."""
    return max((value for window in windows for value in window.activations), default=0.0)


def page_environment(package: str) -> Environment:
    """The environment of a package's folder `templates`, with what prints numbers and texts.

    An unknown name is an error.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
        auto_reload=False,
    )
    environment.filters.update(
        one_line=one_line,
        clip=clip,
        number=number_text,
        percent=percent_text,
        probability=probability_text,
        share=share_text,
        effect_share=effect_share,
    )
    environment.globals.update(plural=plural, interval=interval_text)
    return environment


def _shown(value: object) -> object:
    """Every plain text that a template prints, before it is escaped."""
    return visible(value) if type(value) is str else value


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
    "matters": "\u25cf",
}
KIND_TITLES = {
    "top": "strongest",
    "quantile": "lower quantile",
    "negative": "does not fire",
    "other_model": "other model",
}
IMPORTED_NOTE = "No judge of this study: the labels were imported from a file."
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
    isolation: tuple[tuple[Figure, Figure] | None, tuple[Figure, Figure] | None]
    """Target, reference: every latent as the rule saw it, and its distribution."""
    sweep_wide: Figure | None = None
    sweep_narrow: Figure | None = None

    @property
    def all(self) -> tuple[Figure, ...]:
        """Every figure there is."""
        figures = (
            self.change_wide,
            self.change_narrow,
            *(figure for pair in self.isolation for figure in pair or ()),
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


@dataclass(frozen=True)
class Page:
    """Everything that the page says."""

    comparisons: Sequence[PageComparison]
    study: str
    title: str
    side_by_side: Sequence[SideBySide] = ()
    """Comparisons with another study."""
    stale: Sequence[str] = ()
    of_study: StudyComparisons | None = None


def render_page(page: Page) -> str:
    """The whole page."""
    template = _environment().get_template("report.html.j2")
    return template.render(
        comparisons=page.comparisons,
        study=page.study,
        title=page.title,
        stale=page.stale,
        chapters_of=partial(fill_chapters, _section_environment()),
        of_all=fill_page(_section_environment(), page),
        policy=CONTENT_SECURITY_POLICY,
        css=_style(),
    )


def _figures(report: ReportData, key: str) -> ComparisonFigures:
    target, reference = report.sets
    return ComparisonFigures(
        change_wide=_change_figure(report, key, "wide"),
        change_narrow=_change_figure(report, key, "narrow"),
        isolation=(_isolation_figures(target, key), _isolation_figures(reference, key)),
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


def _isolation_figures(latents: LatentSetView, key: str) -> tuple[Figure, Figure] | None:
    if latents.cloud is None:
        return None
    side, label = latents.side, one_line(latents.label)
    if latents.cloud.shift is not None:
        shown = latents, latents.cloud.chosen, latents.cloud.shift
        shift, t = f"{key}-shift-{side}", f"{key}-shift-t-{side}"
        return (
            _figure(
                shift_scatter(*shown, shift),
                shift,
                f"Strength shift over density of every latent, {label} side",
            ),
            _figure(
                shift_t_histogram(*shown, t),
                t,
                f"Distribution of the shift over its standard error, {label} side",
            ),
        )
    nu, norm = f"{key}-nu-{side}", f"{key}-delta-norm-{side}"
    return (
        _figure(
            nu_scatter(latents, latents.cloud, nu),
            nu,
            f"nu_error over nu_reconstruction of every latent, {label} side",
        ),
        _figure(
            delta_norm_histogram(latents, latents.cloud, norm),
            norm,
            f"Distribution of delta_norm, {label} side",
        ),
    )


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
        judge_note=_judge_note,
        longest_explanation=LONGEST_EXPLANATION,
        check_sentences=check_sentences,
        behaviour_sentences=behaviour_sentences,
        cards=cards,
        first_cards=FIRST_CARDS,
        shift_sentence=shift_sentence,
        shift_worth=worth,
        effect_sentences=effect_sentences,
        compare_summary=summary,
        computed_sentence=computed_sentence,
        documents_text=documents_text,
        per_side=PER_SIDE,
        points_text=points_text,
        shift_bar=shift_bar,
        side_sentence=side_sentence,
        n_panels=lambda swept: len(chosen_panels(swept)),
    )
    return environment


def _judge_note(kind: str) -> str:
    return IMPORTED_NOTE if kind == IMPORT else judge_kind(kind).note


@cache
def _section_environment() -> Environment:
    # What stands inside another template keeps its last line break.
    return _environment().overlay(keep_trailing_newline=True)


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def _style() -> Markup:
    from markupsafe import Markup

    return Markup(
        resources.files(PACKAGE).joinpath("templates/report.css").read_text(encoding="utf-8")
    )
