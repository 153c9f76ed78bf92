"""The change table and what belongs to it as CSV, JSON and Markdown files, and on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, TextIO

from labeler.report.answer import answer_of, check_sentences, computed_sentence, planted_sentence
from labeler.report.basis import side_sentence
from labeler.report.behaviour import behaviour_sentences
from labeler.report.documents import document_sentence
from labeler.report.effects import effect_sentences
from labeler.report.model import CategoryRow, ChangeTable, ReportData
from labeler.report.statistics import ROW_COLUMNS
from labeler.report.stored import flat, read_stored_tables
from labeler.text import csv_text, guarded, interval_text, one_line, probability_text, share_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from labeler.study.study_file import StudyFile


COLUMNS = ("comparison", "category", "name", *(c for c in ROW_COLUMNS if c != "category"))
"""Columns of the CSV and keys of the JSON: those of category_change_statistic, and the title."""
WIDE = 118
"""Columns from which every value is shown; the family p needs `_FAMILY_WIDTH` more."""
MEDIUM = 78
"""Columns from which the interval is shown; the totals stand in the sentence below."""
_STYLES = {"up": "bold blue", "down": "bold dark_orange", "too few to say": "dim"}


def records(tables: Sequence[ChangeTable]) -> list[dict[str, Any]]:
    """Every row of every table, unrounded; None for what is undefined or infinite."""
    return [
        {"comparison": table.comparison} | {name: getattr(row, name) for name in COLUMNS[1:]}
        for table in tables
        for row in table.rows
    ]


def to_csv(tables: Sequence[ChangeTable]) -> str:
    """CSV with a header; an empty field is NULL."""
    return csv_of(COLUMNS, records(tables))


def csv_of(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV with a header; an empty field is NULL, and no text runs as a formula."""
    return csv_text(columns, ([guarded(row.get(name, "")) for name in columns] for row in rows))


def to_json(tables: Sequence[ChangeTable]) -> str:
    """A JSON array of objects."""
    return json.dumps(records(tables), indent=1, allow_nan=False) + "\n"


TRUST = "trust.json"


def trust_json(tables: Sequence[ChangeTable]) -> str:
    """What the verdicts take into account, the banners, and what the null runs found."""
    found = [table.trust.record(table.comparison) for table in tables if table.trust]
    return json.dumps(found, indent=1, allow_nan=False) + "\n"


_HEAD = ("category", "target", "share", "reference", "share")
_TESTED = ("change", "95% interval", "p", "q")
_FAMILY_P = "family p"
_FAMILY_WIDTH = 10


def to_markdown(
    tables: Sequence[ChangeTable], notes: Mapping[str, Sequence[str]] | None = None
) -> str:
    """A section for each comparison: the answer, the categories with latents, the rest by name.

    `notes` are further sentences by comparison, listed under the answer.
    """
    return "\n".join(_section(table, (notes or {}).get(table.comparison, ())) for table in tables)


SCHEMA = "category_change.schema.json"


def schema_text() -> str:
    """The JSON schema of category_change.json."""
    return resources.files("labeler.report").joinpath("schemas", SCHEMA).read_text("utf-8")


def _section(table: ChangeTable, notes: Sequence[str]) -> str:
    answer = answer_of(table)
    heading = _escape(f"{table.comparison}: {table.target} against {table.reference}")
    lines = [f"## {heading}", "", f"**{_escape(answer.sentence)}**", "", _escape(answer.detail)]
    lines += [f"\n**{_escape(banner)}**" for banner in _banners(table)]
    said = [
        *(check_sentences(table.checks) if table.checks else ()),
        *effect_sentences(table),
        *behaviour_sentences(table),
    ]
    if said:
        lines += ["", *(f"- {_escape(sentence)}" for sentence in said)]
    if notes:
        lines += ["", *(f"- {_escape(note)}" for note in notes)]
    lines += ["", f"Shares of {table.denominator} latents; taxonomy {_escape(table.taxonomy)}."]
    lines += [_escape(said) for said in _basis(table)]
    head = [*_HEAD, *_tested(table.has_family_p), "verdict"]
    lines += ["", _line(head), _line(["---", *["---:"] * (len(head) - 2), "---"])]
    lines += [_line(_cells(row, table.has_family_p)) for row in table.filled]
    if table.empty:
        lines += ["", "No latents on either side: " + ", ".join(r.category for r in table.empty)]
    planted = planted_sentence(table)
    if planted:
        lines += ["", _escape(planted)]
    lines += ["", _escape(computed_sentence(table))]
    return "\n".join([*lines, ""])


def _banners(table: ChangeTable) -> tuple[str, ...]:
    return table.trust.banners if table.trust else ()


def _basis(table: ChangeTable) -> Iterator[str]:
    """What a verdict takes into account, what the sides hold, what p and the intervals rest on."""
    if table.trust:
        yield table.trust.sentence
    said = side_sentence(table)
    if said:
        yield said
    yield from table.basis.sentences
    documents = document_sentence(table)
    if documents:
        yield documents


def _tested(has_family_p: bool) -> tuple[str, ...]:
    """Headings of the change and its tests."""
    return (*_TESTED, _FAMILY_P) if has_family_p else _TESTED


def _shows_family_p(table: ChangeTable, width: int) -> bool:
    return table.has_family_p and width >= WIDE + _FAMILY_WIDTH


def _cells(row: CategoryRow, has_family_p: bool) -> list[str]:
    name = _escape(row.category)
    title = f"**{name}**" if row.level == 1 else f"&nbsp;&nbsp;{name}"
    return [title, *_numbers(row, has_family_p), row.shown_verdict]


def _numbers(row: CategoryRow, has_family_p: bool) -> list[str]:
    """Count and share of each side, change, interval, p, q, and p for the whole table."""
    tested = [row.p_value, row.q_value, *([row.family_p] if has_family_p else [])]
    return [
        f"{row.target_count}/{row.target_total}",
        share_text(row.target_share),
        f"{row.reference_count}/{row.reference_total}",
        share_text(row.reference_share),
        row.shown_change,
        interval_text(row.ci_low, row.ci_high),
        *("" if row.is_empty else probability_text(value) for value in tested),
    ]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escape(text: str) -> str:
    """Text that Markdown and HTML show as it is."""
    shown = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for character in "\\`*_[]|#!":
        shown = shown.replace(character, "\\" + character)
    return shown


SENSITIVITY = "sensitivity.csv"
CORRECTION = "judge_correction.csv"
SWEEP = "threshold_sweep.csv"
BEHAVIOUR = "category_behaviour.csv"
AGREEMENT = "judge_agreement"


def further_files(reports: Sequence[ReportData]) -> dict[str, str]:
    """File name to content; a file without rows is left out."""
    found = {
        SENSITIVITY: list(_ways(reports)),
        CORRECTION: list(_corrections(reports)),
        SWEEP: list(_sweeps(reports)),
        BEHAVIOUR: list(_behaviours(reports)),
    }
    return {name: csv_of(tuple(rows[0]), rows) for name, rows in found.items() if rows}


def agreement_files(reports: Sequence[ReportData]) -> dict[str, str]:
    """How far the judges agree, as CSV and as JSON; nothing where no comparison says."""
    rows = [
        {
            "comparison": row.comparison,
            "raters": row.raters,
            "alpha": row.agreement.alpha,
            "ci_low": row.agreement.ci_low,
            "ci_high": row.agreement.ci_high,
            "n_latents": row.agreement.n_units,
            "n_answers": row.agreement.n_answers,
            "n_raters": row.agreement.n_raters,
            "n_categories": row.agreement.n_categories,
            "reason": row.agreement.reason,
        }
        for report in reports
        for row in report.agreement
    ]
    if not rows:
        return {}
    return {
        f"{AGREEMENT}.csv": csv_of(tuple(rows[0]), rows),
        f"{AGREEMENT}.json": json.dumps(rows, indent=1, allow_nan=False) + "\n",
    }


def _ways(reports: Sequence[ReportData]) -> Iterator[dict[str, Any]]:
    for report in reports:
        for is_main, rows in ((True, report.table.rows), (False, report.robustness.others)):
            for row in rows:
                values = {name: getattr(row, name) for name in COLUMNS[1:]}
                yield {"comparison": report.table.comparison, "is_main": is_main} | values


def _corrections(reports: Sequence[ReportData]) -> Iterator[dict[str, Any]]:
    for report in reports:
        correction = report.robustness.correction
        for row in correction.rows:
            values = flat(row)
            place = ("category", "level", "parent")
            yield {
                "comparison": report.table.comparison,
                **{name: values[name] for name in place},
                "denominator": report.table.denominator,
                "estimand": correction.estimand,
                **{name: value for name, value in values.items() if not name.endswith(_COUNTS)},
            }


_COUNTS = ("_hits", "_positives", "_rejections", "_negatives")
"""Counts behind the judge's error rates: in the database, and not in the file."""


def _sweeps(reports: Sequence[ReportData]) -> Iterator[dict[str, Any]]:
    for report in reports:
        sweep = report.robustness.sweep
        for swept in sweep.categories:
            for point in swept.points:
                head = {"comparison": report.table.comparison, "swept": sweep.swept}
                yield head | vars(point) | {"stability": swept.stability}


def _behaviours(reports: Sequence[ReportData]) -> Iterator[dict[str, Any]]:
    for report in reports:
        results = report.table.behaviour
        for row in (*results.rows, *results.groups) if results is not None else ():
            yield {"comparison": report.table.comparison} | vars(row.change)


def print_change_tables(study: StudyFile, stream: TextIO | None = None) -> None:
    """Print the newest stored table of each comparison, and where the page is.

    Raises UsageError when nothing is labelled.
    """
    from labeler.report.build import PAGE
    from labeler.store.comparisons import study_comparisons
    from labeler.store.engine import open_engine, read_session

    engine = open_engine(study.database_url)
    try:
        with read_session(engine) as session:
            config = study.config
            tables = read_stored_tables(session, config.report.planted, config.comparison)
            retired = study_comparisons(session, config.comparison).retired
    finally:
        engine.dispose()
    console = make_console(stream)
    print_tables(tables, console)
    if retired:
        names = ", ".join(one_line(one.name) for one in retired)
        console.print(
            f"Retired, no longer in study.toml (SQL still has them): {names}.", soft_wrap=True
        )
    page = study.resolve(study.config.report.folder) / PAGE
    if page.is_file():
        console.print(f"report: {page}", markup=False, highlight=False, soft_wrap=True)


def make_console(stream: TextIO | None = None, width: int | None = None) -> Console:
    """A console on stdout: as wide as the terminal, and wide and plain where there is none."""
    from rich.console import Console

    target = stream if stream is not None else sys.stdout
    if width is None and not target.isatty():
        width = 140
    return Console(file=target, width=width, highlight=False, emoji=False, markup=False)


def print_tables(tables: Sequence[ChangeTable], console: Console) -> None:
    """Print tables, each with its answer under it."""
    for table in tables:
        _print_table(table, console)


def _print_table(table: ChangeTable, console: Console) -> None:
    from rich.text import Text

    heading = f"{table.comparison}: {table.target} against {table.reference}"
    console.print()
    console.print(Text(one_line(heading), style="bold"))
    console.print()
    console.print(_rich_table(table, console.width))
    if table.empty:
        slugs = ", ".join(row.category for row in table.empty)
        console.print(Text(f"No latents on either side: {one_line(slugs)}.", style="dim"))
    answer = answer_of(table)
    console.print()
    console.print(Text(answer.sentence, style="bold"))
    console.print(Text(answer.detail))
    for banner in _banners(table):
        console.print(Text(banner, style="bold yellow"))
    for said in _basis(table):
        console.print(Text(said, style="dim"))
    for said in check_sentences(table.checks) if table.checks else ():
        console.print(Text(f"- {said}"))
    for said in (*effect_sentences(table), *behaviour_sentences(table)):
        console.print(Text(f"- {said}"))
    planted = planted_sentence(table)
    if planted:
        console.print(Text(planted))
    if table.is_stale:
        console.print(
            Text("Labels changed after this report; `difflens report` computes it again."),
            style="yellow",
        )
    console.print()


def _rich_table(table: ChangeTable, width: int) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    shown = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    shown.add_column("category", overflow="fold", min_width=9)
    for name in _headings(table, width):
        words = name == "verdict"
        shown.add_column(
            name,
            justify="left" if words else "right",
            no_wrap=not words or width >= MEDIUM,
            min_width=len("evidence") if words else None,
        )
    for row in table.filled:
        shown.add_row(
            *_console_cells(row, width, _shows_family_p(table, width)),
            style="bold" if row.level == 1 else "",
        )
    return shown


def _headings(table: ChangeTable, width: int) -> list[str]:
    if width < MEDIUM:
        return ["counts", "change", "verdict"]
    if width < WIDE:
        return ["counts", "change", "95% interval", "verdict"]
    target, reference = one_line(table.target, 18), one_line(table.reference, 18)
    return [target, "share", reference, "share", *_tested(_shows_family_p(table, width)), "verdict"]


def _console_cells(row: CategoryRow, width: int, has_family_p: bool) -> list[str | Text]:
    from rich.text import Text

    indent = "" if row.level == 1 else "  "
    name = Text(indent + one_line(row.category))
    verdict = Text(row.shown_verdict, style=_STYLES.get(row.verdict, ""))
    counts = f"{row.target_count} vs {row.reference_count}"
    if width < MEDIUM:
        return [name, counts, row.shown_change, verdict]
    interval = interval_text(row.ci_low, row.ci_high)
    if width < WIDE:
        return [name, counts, row.shown_change, interval, verdict]
    return [name, *_numbers(row, has_family_p), verdict]
