"""`difflens report --compare`: another study's newest report beside this one's."""

from __future__ import annotations

from typing import TextIO

from sqlalchemy import Engine

from crosscoder.progress import SilentProgress
from labeler.errors import UsageError
from labeler.report.build import ReportOptions, build_report
from labeler.report.compare import ReportedComparison, SideBySide, read_reported, side_by_side
from labeler.report.compare_terminal import print_side_by_side
from labeler.report.terminal import make_console
from labeler.stages.base import StageContext
from labeler.store.engine import read_session, require_existing
from labeler.store.migrate import opened
from labeler.store.runs import latest_done_run
from labeler.study import StudyFile


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
    """Print both side by side and write this study's page anew with them in a section."""
    with opened(study.database_url) as engine:
        pairs = side_by_side(
            read_reported(engine, str(study.path), study.config.comparison), others
        )
        with read_session(engine) as session:
            newest = latest_done_run(session, "report")
        if newest is not None:
            build_report(
                engine,
                ReportOptions.from_config(study.config, _stale(study, engine)),
                study.resolve(study.config.report.folder),
                newest.id,
                pairs,
            )
    print_side_by_side(pairs, make_console(stream))
    return pairs


def _stale(study: StudyFile, engine: Engine) -> tuple[str, ...]:
    from labeler.status import stale_stages

    return stale_stages(StageContext(study, engine, SilentProgress()))
