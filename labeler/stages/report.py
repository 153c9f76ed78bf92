"""Report: change statistics into the database, page and tables into the report's folder."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select

from labeler.stages.base import Stage, StageContext, StageOutcome
from labeler.store.engine import read_session
from labeler.store.schema import (
    Comparison,
    ExplanationScore,
    JudgeLabel,
    NullResult,
    ReviewEvent,
)

_READ = (
    JudgeLabel.id,
    ReviewEvent.id,
    Comparison.labels_changed_at,
    ExplanationScore.id,
    NullResult.id,
)
"""What a report reads: a newer one of these makes it stale."""


class ReportStage:
    """The folder report/ beside study.toml, and rows of category_change_statistic."""

    name = "report"
    reads_previous = False

    def inputs(self, context: StageContext) -> dict[str, Any]:
        """How the change is counted, and up to where labels, scores and null runs reach."""
        with read_session(context.engine) as session:
            newest = [session.execute(select(func.max(column))).scalar() for column in _READ]
        study = context.study.config.study.model_dump()
        inputs: dict[str, Any] = {
            "study": study,
            "report": context.study.config.report.model_dump(),
            "comparison": [row.model_dump() for row in context.study.config.comparison],
            "labels": [str(value) for value in newest],
        }
        stale = _stale(context)
        return inputs | {"stale": list(stale)} if stale else inputs

    def run(self, context: StageContext, run_id: int) -> StageOutcome:
        """Compute, store, and write the files."""
        from labeler.report.build import ReportOptions, build_report

        options = ReportOptions.from_config(context.study.config, _stale(context))
        folder = context.study.resolve(context.study.config.report.folder)
        files = build_report(context.engine, options, folder, run_id)
        return StageOutcome(f"wrote {files.html}", {"html": str(files.html)})

    def is_whole(self, context: StageContext) -> bool:
        """Whether the page is there."""
        folder = context.study.resolve(context.study.config.report.folder)
        return (folder / "index.html").is_file()


def _stale(context: StageContext) -> tuple[str, ...]:
    from labeler.status import stale_stages

    return stale_stages(context)


STAGE: Stage = ReportStage()
