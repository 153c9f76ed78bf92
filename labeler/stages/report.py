"""Report: the change of each category, with what it survives, as page, table and files."""

from __future__ import annotations

from typing import Any, TextIO

from sqlalchemy import Engine, func, select

from crosscoder.progress import SilentProgress
from labeler.errors import UsageError
from labeler.report.build import ReportOptions, build_report
from labeler.report.compare import (
    ReportedComparison,
    SideBySide,
    print_side_by_side,
    read_reported,
    side_by_side,
)
from labeler.report.sections import REPORT_SECTIONS
from labeler.report.tables import make_console
from labeler.stages.base import Stage, StageContext, StageOutcome
from labeler.store.engine import read_session, require_existing
from labeler.store.migrate import opened
from labeler.store.runs import latest_done_run
from labeler.store.schema import (
    CategoryBehaviour,
    CategoryEffect,
    Comparison,
    ExplanationScore,
    JudgeCheck,
    JudgeLabel,
    NullResult,
    ReviewEvent,
)
from labeler.study.study_file import StudyFile

_READ = (
    JudgeLabel.id,
    ReviewEvent.id,
    Comparison.labels_changed_at,
    ExplanationScore.id,
    NullResult.id,
    CategoryBehaviour.id,
    CategoryEffect.id,
)
"""What a report reads: a newer one of these makes it stale."""


class ReportStage:
    """The folder report/ next to study.toml, and rows of category_change_statistic."""

    name = "report"
    reads_previous = False

    def inputs(self, context: StageContext) -> dict[str, Any]:
        """How the change is counted, what the page has, and up to where its rows reach."""
        with read_session(context.engine) as session:
            newest = [session.execute(select(func.max(column))).scalar() for column in _READ]
            checked = session.execute(select(func.max(JudgeCheck.id))).scalar()
        study = context.study.config.study.model_dump()
        inputs: dict[str, Any] = {
            "study": study,
            "report": context.study.config.report.model_dump(),
            "comparison": [row.model_dump() for row in context.study.config.comparison],
            "labels": [str(value) for value in newest],
            "sections": sorted(REPORT_SECTIONS.names()),
        }
        if checked is not None:
            inputs["judge_check"] = checked
        stale = _stale(context)
        return inputs | {"stale": list(stale)} if stale else inputs

    def run(self, context: StageContext, run_id: int) -> StageOutcome:
        """Compute, store, and write the files."""
        options = ReportOptions.from_config(context.study.config, _stale(context))
        folder = context.study.resolve(context.study.config.report.folder)
        files = build_report(context.engine, options, folder, run_id)
        return StageOutcome(f"wrote {files.html}", {"html": str(files.html)})

    def is_whole(self, context: StageContext) -> bool:
        """Whether the page is there."""
        folder = context.study.resolve(context.study.config.report.folder)
        return (folder / "index.html").is_file()


def _stale(context: StageContext) -> tuple[str, ...]:
    from labeler.stages.status import stale_stages

    return stale_stages(context)


STAGE: Stage = ReportStage()


def read_other(study: StudyFile) -> list[ReportedComparison]:
    """What another study's newest report says; UsageError for none or a stale one."""
    require_existing(study.database_url)
    with opened(study.database_url) as engine:
        reported = read_reported(engine, str(study.path), study.config.comparison)
    if any(one.table.is_stale for one in reported):
        raise UsageError(
            f"--compare: labels of {study.path} changed after its report; "
            f"run `difflens report {study.path}` first"
        )
    return reported


def compare_studies(
    study: StudyFile, others: list[ReportedComparison], stream: TextIO | None = None
) -> tuple[SideBySide, ...]:
    """Print both side by side and write this study's page again with a section on them."""
    with opened(study.database_url) as engine:
        pairs = side_by_side(
            read_reported(engine, str(study.path), study.config.comparison), others
        )
        with read_session(engine) as session:
            newest = latest_done_run(session, "report")
        if newest is not None:
            build_report(
                engine,
                ReportOptions.from_config(study.config, _stale_stages(study, engine)),
                study.resolve(study.config.report.folder),
                newest.id,
                pairs,
            )
    print_side_by_side(pairs, make_console(stream))
    return pairs


def _stale_stages(study: StudyFile, engine: Engine) -> tuple[str, ...]:
    from labeler.stages.status import stale_stages

    return stale_stages(StageContext(study, engine, SilentProgress()))
