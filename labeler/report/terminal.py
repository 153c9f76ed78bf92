"""The change table on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from labeler.report.answer import answer_of, planted_sentence
from labeler.report.checks import check_sentences
from labeler.report.model import ChangeTable
from labeler.report.rows import CategoryRow
from labeler.text import interval_text, one_line, probability_text, share_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from labeler.study.study_file import StudyFile

WIDE = 118
"""Columns from which every value is shown."""
MEDIUM = 78
"""Columns from which the interval is shown; the totals stand in the sentence below."""
_STYLES = {"up": "bold blue", "down": "bold dark_orange", "too few to say": "dim"}


def print_change_tables(study: StudyFile, stream: TextIO | None = None) -> None:
    """Print the newest stored table of each comparison, and where the page is.

    Raises UsageError when nothing is labelled.
    """
    from labeler.report.build import PAGE
    from labeler.report.stored import read_stored_tables
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
    for said in check_sentences(table.checks) if table.checks else ():
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
        shown.add_row(*_cells(row, width), style="bold" if row.level == 1 else "")
    return shown


def _headings(table: ChangeTable, width: int) -> list[str]:
    if width < MEDIUM:
        return ["counts", "change", "verdict"]
    if width < WIDE:
        return ["counts", "change", "95% interval", "verdict"]
    target, reference = one_line(table.target, 18), one_line(table.reference, 18)
    return [target, "share", reference, "share", "change", "95% interval", "p", "q", "verdict"]


def _cells(row: CategoryRow, width: int) -> list[str | Text]:
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
    return [
        name,
        f"{row.target_count}/{row.target_total}",
        share_text(row.target_share),
        f"{row.reference_count}/{row.reference_total}",
        share_text(row.reference_share),
        row.shown_change,
        interval,
        "" if row.is_empty else probability_text(row.p_value),
        "" if row.is_empty else probability_text(row.q_value),
        verdict,
    ]
