"""Builds a report: statistics into the database, page, figures and tables into a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from crosscoder.files import write_text
from labeler.labeling.agreement import read_agreement
from labeler.report.comparisons import ActiveComparison, active_comparisons
from labeler.report.latents import read_latents, read_set
from labeler.report.model import CategoryRow, ChangeTable, Direction, ReportData
from labeler.report.provenance import (
    read_crosscoders,
    read_embedder,
    read_fingerprints,
    read_judge,
    read_revision,
    read_runs,
    read_text,
)
from labeler.report.randomisation import RandomisedSides, read_randomised_sides
from labeler.report.robustness import RobustnessInput, check_robustness
from labeler.report.seeds import FurtherSeed, read_further_seeds, seed_rows, write_seed_rows
from labeler.report.statistics import compute_rows, read_category_nodes, write_rows
from labeler.report.stored import (
    CheckRows,
    ReportKey,
    change_table,
    check_rows,
    checks_of,
    write_checks,
)
from labeler.report.tables import (
    SCHEMA,
    TRUST,
    agreement_files,
    further_files,
    schema_text,
    to_csv,
    to_json,
    to_markdown,
    trust_json,
)
from labeler.report.trust import read_grounds, trust_of
from labeler.store.comparisons import NamedComparison, study_comparisons
from labeler.store.engine import READ_ONLY_OPTION, write_session
from labeler.store.schema import utc_now
from labeler.study.study_file import StudyConfig
from labeler.text import one_line
from taxonomy.counts import ALPHA

if TYPE_CHECKING:
    from labeler.report.compare import SideBySide
    from taxonomy.counts import ExactTest

Rows = tuple[CategoryRow, ...]
PAGE = "index.html"
CSV = "category_change.csv"
JSON = "category_change.json"
MARKDOWN = "category_change.md"
FIGURES = "figures"


@dataclass(frozen=True)
class ReportOptions:
    """What study.toml says of the report."""

    study: str = "study"
    title: str | None = None
    denominator: str = "labelled"
    planted: Mapping[str, Direction] = field(default_factory=dict)
    alpha: float = ALPHA
    test: ExactTest = "fisher"
    comparisons: Sequence[NamedComparison] | None = None
    """Those of study.toml, in its order; None = every comparison of the database, by name."""
    stale: tuple[str, ...] = ()
    """Stages whose product is of an earlier config."""

    @classmethod
    def from_config(cls, config: StudyConfig, stale: tuple[str, ...] = ()) -> ReportOptions:
        """The options of a study file."""
        return cls(
            study=config.study.name,
            title=config.study.title,
            denominator=config.report.denominator,
            planted=config.report.planted,
            test=config.report.test,
            comparisons=config.comparison,
            stale=stale,
        )


@dataclass(frozen=True)
class ReportFiles:
    """Where a report was written, and what it says."""

    folder: Path
    html: Path
    csv: Path
    json: Path
    markdown: Path
    others: tuple[Path, ...]
    """Every way of counting, the correction, the sweep, the judges' agreement, the null runs, and
    the JSON's schema."""
    figures: tuple[Path, ...]
    tables: tuple[ChangeTable, ...]


@dataclass(frozen=True)
class _Read:
    facts: ActiveComparison
    key: ReportKey
    data: ReportData
    checks: CheckRows


def build_report(
    engine: Engine,
    options: ReportOptions,
    out_dir: Path,
    report_run_id: int,
    side_by_side: Sequence[SideBySide] = (),
) -> ReportFiles:
    """Compute, store and write the report of every labelled comparison of the study.

    `side_by_side` are comparisons with another study, which get a section of the page. Everything
    is read from one snapshot. Raises UsageError when nothing is labelled or a planted category does
    not exist, WorkError when a file cannot be written.
    """
    from labeler.report.html import Page, page_comparisons, render_page

    computed_at = utc_now()
    with _snapshot(engine) as session:
        of_study = study_comparisons(session, options.comparisons)
        found = [
            _read(
                session, options, facts, ReportKey(report_run_id, facts.comparison.id, computed_at)
            )
            for facts in active_comparisons(session, of_study)
        ]
    reports = [entry.data for entry in found]
    tables = tuple(report.table for report in reports)
    comparisons = page_comparisons(reports)
    page = render_page(
        Page(
            comparisons,
            study=options.study,
            title=options.title or default_title(tables[0]),
            side_by_side=side_by_side,
            stale=options.stale,
            of_study=of_study,
        )
    )
    _store(engine, found)
    figures = tuple(
        _written(out_dir / FIGURES / figure.file_name, figure.document)
        for comparison in comparisons
        for figure in comparison.figures.all
    )
    return ReportFiles(
        folder=out_dir,
        csv=_written(out_dir / CSV, to_csv(tables)),
        others=tuple(
            _written(out_dir / name, document)
            for name, document in {
                **further_files(reports),
                **agreement_files(reports),
                SCHEMA: schema_text(),
                TRUST: trust_json(tables),
            }.items()
        ),
        json=_written(out_dir / JSON, to_json(tables)),
        markdown=_written(out_dir / MARKDOWN, to_markdown(tables, agreement_of(reports))),
        html=_written(out_dir / PAGE, page),
        figures=figures,
        tables=tables,
    )


def agreement_of(reports: Sequence[ReportData]) -> dict[str, list[str]]:
    """How far the judges agree, in sentences, by comparison."""
    return {
        report.table.comparison: [row.sentence for row in report.agreement] for report in reports
    }


def default_title(table: ChangeTable) -> str:
    """The headline of a study that gives none."""
    return f"What changed from {one_line(table.reference)} to {one_line(table.target)}"


@contextmanager
def _snapshot(engine: Engine) -> Iterator[Session]:
    """A session whose reads all see one state of the database, and that takes no write lock."""
    options: dict[str, object] = {READ_ONLY_OPTION: True}
    if engine.dialect.name == "postgresql":
        options["isolation_level"] = "REPEATABLE READ"
    with Session(engine.execution_options(**options), expire_on_commit=False) as session:
        yield session


def _read(
    session: Session,
    options: ReportOptions,
    facts: ActiveComparison,
    key: ReportKey,
) -> _Read:
    nodes = read_category_nodes(session, facts.version.id)
    drawn = read_randomised_sides(session, facts.comparison.id, facts.version.id, facts.judge_id)
    further = read_further_seeds(session, facts.comparison.id, facts.version.id, facts.judge_id)

    def rows_of(name: str, sides: RandomisedSides | None, *seeds: FurtherSeed) -> Rows:
        return compute_rows(
            session, name, nodes, options.denominator, options.alpha, options.test, sides, seeds
        )

    first = facts.comparison.name
    rows = rows_of(first, drawn, *further)
    alone = [(first, drawn), *((each.comparison, each.sides) for each in further)]
    sets = (read_set(session, facts, "target"), read_set(session, facts, "reference"))
    robustness = check_robustness(
        session, facts, RobustnessInput(rows, nodes, sets, options.test, options.alpha, drawn)
    )
    checks = check_rows(key, robustness.correction, robustness.sweep, options.denominator)
    table = replace(
        change_table(session, facts, rows, options.denominator, options.planted),
        report_run_id=key.report_run_id,
        computed_at=key.computed_at,
        checks=checks_of(checks, rows, robustness.others),
        seeds=seed_rows([rows_of(*each) for each in alone]) if further else (),
    )
    validation = robustness.validation
    grounds = read_grounds(session, facts.target_set)
    trust = trust_of(table, validation.null_runs, validation.scores, grounds)
    table = replace(table, trust=trust)
    runs = read_runs(session, facts, key.report_run_id)
    data = ReportData(
        table=table,
        sets=sets,
        latents=read_latents(session, facts),
        judge=read_judge(session, facts),
        crosscoders=read_crosscoders(session, facts),
        fingerprints=read_fingerprints(session, facts),
        runs=runs,
        category_names={node.category: node.name for node in nodes},
        embedder=read_embedder(session, facts),
        robustness=robustness,
        agreement=tuple(read_agreement(session, facts.comparison)),
        revision=read_revision(session, facts),
        text_read=read_text(session, runs),
    )
    return _Read(facts, key, data, checks)


def _store(engine: Engine, found: list[_Read]) -> None:
    with write_session(engine) as session:
        for entry in found:
            write_rows(
                session,
                entry.data.table.rows,
                entry.data.robustness.others,
                taxonomy_version_id=entry.facts.version.id,
                **vars(entry.key),
            )
            write_checks(session, entry.key, entry.checks)
            write_seed_rows(
                session, entry.key.report_run_id, entry.key.comparison_id, entry.data.table.seeds
            )


def _written(path: Path, text: str) -> Path:
    write_text(path, text)
    return path
