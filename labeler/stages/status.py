"""What is done in a study, what is stale, and what review is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import text
from sqlalchemy.orm import Session

from crosscoder.progress import SilentProgress
from labeler.errors import USAGE_ERRORS
from labeler.stages.base import STAGE_NAMES, StageContext, reads_previous, stages_of
from labeler.stages.harvest import named_inputs
from labeler.stages.pipeline import is_done, load_stage, with_key
from labeler.store.comparisons import AbsentComparison, RetiredComparison, study_comparisons
from labeler.store.database_url import shown_url
from labeler.store.engine import read_session, require_existing
from labeler.store.migrate import opened
from labeler.store.outcomes import BY_NAME, OF_ONE_REQUEST
from labeler.store.runs import latest_done_run
from labeler.store.schema import Run
from labeler.study.study_file import StudyFile
from labeler.study.text_read import text_lines

StageState = Literal["done", "stale", "open"]


@dataclass(frozen=True)
class StageStatus:
    """One stage: `done` with the present inputs, `stale` with older ones, or `open`."""

    stage: str
    state: StageState
    note: str
    details: tuple[str, ...] = ()
    """Of a finished harvest: what became of the text, by role."""


@dataclass(frozen=True)
class CoverageRow:
    """How many latents of one side are labelled and reviewed."""

    comparison: str
    side: str
    isolated: int
    labelled: int
    uninterpretable: int
    error: int
    too_long: int
    refused: int
    unlabelled: int
    reviewed: int


@dataclass(frozen=True)
class StudyStatus:
    """Stages in order, then the coverage of each side."""

    database: str
    stages: tuple[StageStatus, ...]
    coverage: tuple[CoverageRow, ...]
    """Of the comparisons that the study shows, in its order."""
    absent: tuple[AbsentComparison, ...] = ()
    retired: tuple[RetiredComparison, ...] = ()


def study_status(study: StudyFile) -> StudyStatus:
    """Look at a study without changing it; UsageError where it has no database yet."""
    require_existing(study.database_url)
    with opened(study.database_url) as engine:
        context = StageContext(study, engine, SilentProgress())
        stages = stage_states(context)
        with read_session(engine) as session:
            found = study_comparisons(session, study.config.comparison)
            return StudyStatus(
                shown_url(study.database_url),
                stages,
                _coverage(session, [row.name for row in found.shown]),
                found.absent,
                found.retired,
            )


def not_current(study: StudyFile, name: str) -> tuple[StageStatus, ...]:
    """The stages whose product stage `name` reads and that are stale or open."""
    if not reads_previous(load_stage(name), study):
        return ()
    with opened(study.database_url) as engine:
        context = StageContext(study, engine, SilentProgress(), reads_database_only=True)
        stages = stage_states(context, STAGE_NAMES[: STAGE_NAMES.index(name)])
    return tuple(stage for stage in stages if stage.state != "done")


def stale_stages(context: StageContext) -> tuple[str, ...]:
    """Stages before the report whose product is of an earlier config or earlier inputs."""
    states = stage_states(context, STAGE_NAMES[: STAGE_NAMES.index("report")])
    return tuple(each.stage for each in states if each.state == "stale")


def warn_of_stale_stages(study: StudyFile) -> None:
    """Say on stderr, in one line, which stages a report rests on are stale; nothing else."""
    import typer

    with opened(study.database_url) as engine:
        stale = stale_stages(StageContext(study, engine, SilentProgress()))
    if stale:
        typer.echo(
            f"report: warning: {', '.join(stale)} {'is' if len(stale) == 1 else 'are'} stale: the "
            f"report shows what the database holds; `difflens run {study.path.name}` updates it",
            err=True,
        )


def stage_states(
    context: StageContext, names: Sequence[str] = STAGE_NAMES
) -> tuple[StageStatus, ...]:
    """The stages in order, as far as the config and the files of this machine tell."""
    found: list[StageStatus] = []
    reason: str | None = None
    said: str | None = None
    for name in [name for name in names if name in stages_of(context.study)]:
        if reason is None or not reads_previous(load_stage(name), context.study):
            reason = None
            try:
                context = with_key(context, name)
            except USAGE_ERRORS as error:
                reason = str(error)
        keyed = reason is None
        with read_session(context.engine) as session:
            earlier = latest_done_run(session, name)
        if keyed and is_done(context, name):
            details = text_lines(earlier.result) if earlier is not None else ()
            found.append(StageStatus(name, "done", "", details))
            continue
        if earlier is not None:
            note = reason or _what_changed(context.study, earlier)
            found.append(StageStatus(name, "stale", note))
        else:
            found.append(StageStatus(name, "open", "" if reason in (None, said) else str(reason)))
        said = reason
    return tuple(found)


def _what_changed(study: StudyFile, run: Run) -> str:
    """That a stage's inputs have changed, and which, where its run has recorded them by name."""
    note = "its inputs have changed since"
    recorded = (run.result or {}).get("inputs")
    if run.kind != "harvest" or not isinstance(recorded, dict):
        return note
    present = named_inputs(study)
    names = sorted(present.keys() | recorded.keys())
    changed = [name for name in names if present.get(name) != recorded.get(name)]
    return f"{note}: {', '.join(changed)}" if changed else note


def _coverage(session: Session, names: Sequence[str]) -> tuple[CoverageRow, ...]:
    query = text(
        "select comparison, side, isolated, labelled, uninterpretable, error, too_long, refused, "
        "unlabelled, reviewed from v_coverage where comparison = :name order by side desc"
    )
    return tuple(
        CoverageRow(**row)
        for name in names
        for row in session.execute(query, {"name": name}).mappings()
    )


def print_status(study: StudyFile) -> None:
    """Print the status for people, on stdout."""
    import typer

    status = study_status(study)
    typer.echo(f"database  {status.database}")
    for stage in status.stages:
        typer.echo(f"{stage.stage:<11} {stage.state:<6} {stage.note}".rstrip())
        for line in stage.details:
            typer.echo(f"  {line}")
    for row in status.coverage:
        left = row.isolated - row.reviewed
        single = [
            f"{getattr(row, name)} {BY_NAME[name].short}, "
            for name in OF_ONE_REQUEST
            if getattr(row, name)
        ]
        typer.echo(
            f"{row.comparison}/{row.side}: {row.isolated} isolated, {row.labelled} labelled, "
            f"{row.uninterpretable} uninterpretable, {row.error} error, "
            f"{''.join(single)}{row.unlabelled} unlabelled; {row.reviewed} reviewed, "
            f"{left} left to review"
        )
    for absent in status.absent:
        typer.echo(f"{absent.name}: {absent.reason}")
    for retired in status.retired:
        typer.echo(f"{retired.name}: retired, study.toml does not name it; SQL still has it")
