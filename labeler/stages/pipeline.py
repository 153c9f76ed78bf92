"""Runs the stages in order, skips what is done with the same inputs, and records every run."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from sqlalchemy import Engine

from crosscoder.files import DamagedFileError, json_sha256
from crosscoder.progress import Progress
from labeler import __version__
from labeler.errors import USAGE_ERRORS, UsageError, doing, naming_extra, require_extra
from labeler.judge.budget import BudgetReachedError, Limits, Usage
from labeler.judge.factory import require_embedding, require_judge, study_spending
from labeler.stages.base import (
    READ_MODELS,
    STAGE_NAMES,
    UNANSWERED,
    Stage,
    StageContext,
    reads_previous,
    recorded_key,
    stages_of,
    why_left_out,
)
from labeler.stages.experiment import require_experiments
from labeler.store.engine import read_session, write_session
from labeler.store.migrate import opened
from labeler.store.runs import begin_run, finish_run, latest_done_run, runs_broken_off
from labeler.store.schema.base import storable
from labeler.store.taxonomies import missing_category_hint
from labeler.study.study_file import StudyFile, study_lock
from labeler.taxonomies.showing import stored_version, tree_of


def load_stage(name: str) -> Stage:
    """The stage called `name`, one of STAGE_NAMES."""
    if name not in STAGE_NAMES:
        raise KeyError(name)
    stage: Stage = import_module(f"labeler.stages.{name}").STAGE
    return stage


_LOGGER = logging.getLogger(__name__)

SHARED = frozenset({"label"})
"""Stages that several processes may work on together; they read nothing but the database."""


@dataclass(frozen=True)
class StageReport:
    """What happened to one stage in one call."""

    stage: str
    was_done: bool
    message: str
    seconds: float
    details: tuple[str, ...] = ()
    """Further lines below the message."""


def stage_range(first: str | None, last: str | None) -> tuple[str, ...]:
    """Stage names up to `last`; UsageError for an unknown name or an empty range."""
    for option, name in (("--from", first), ("--until", last)):
        if name is not None and name not in STAGE_NAMES:
            raise UsageError(f"{option}: no stage {name!r}; choose from {', '.join(STAGE_NAMES)}")
    until = STAGE_NAMES.index(last) if last else len(STAGE_NAMES) - 1
    if first and STAGE_NAMES.index(first) > until:
        raise UsageError(f"--from {first} comes after --until {last}")
    return STAGE_NAMES[: until + 1]


def study_stages(study: StudyFile, first: str | None, last: str | None) -> tuple[str, ...]:
    """The study's own stages up to `last`; UsageError as `stage_range`, and for another stage."""
    names = stage_range(first, last)
    for option, name in (("--from", first), ("--until", last)):
        why = why_left_out(study, name) if name is not None else None
        if why is not None:
            raise UsageError(f"{option} {name}: no stage of this study: {why}")
    own = stages_of(study)
    return tuple(name for name in names if name in own)


def run_study(
    study: StudyFile,
    progress: Progress,
    first: str | None = None,
    last: str | None = None,
    limits: Limits | None = None,
) -> Iterator[StageReport]:
    """Run the stages until `last`, yielding a report after each.

    All stages share `limits`, with what earlier runs of the study have used.

    A stage whose newest finished run has its key, and whose product is whole, is skipped, unless
    it is `first` or comes after it: then its product is made again. Raises UsageError for what any
    of the stages lacks in the config before the first of them starts.
    """
    names = study_stages(study, first, last)
    forced = STAGE_NAMES.index(first) if first else len(STAGE_NAMES)
    with (
        opened(study.database_url, create=True) as engine,
        study_lock(study),
        study_spending(study, engine, limits or Limits()) as spending,
    ):
        _mark_broken_off(engine)
        context = StageContext(study, engine, progress, spending=spending)
        _check_config(context, names)
        for number, name in enumerate(names):
            context = with_key(context, name)
            is_forced = STAGE_NAMES.index(name) >= forced
            with _saying_what_is_left(context, names[number:]):
                yield from _run_on_whole_files(context, name, is_forced)


@contextmanager
def _saying_what_is_left(context: StageContext, names: Sequence[str]) -> Iterator[None]:
    """Add to a BudgetReachedError what the stages of these names still have to ask."""
    try:
        yield
    except BudgetReachedError as error:
        from labeler.stages.judge_plan import left_words, study_plan

        with suppress(*USAGE_ERRORS):
            error.left = left_words(study_plan(context, names), context)
        raise


def _run_on_whole_files(context: StageContext, name: str, forced: bool) -> Iterator[StageReport]:
    """Run a stage; a file of an earlier one that turns out damaged is made again first."""
    made_again: set[Path] = set()
    while True:
        try:
            yield _run_stage(context, name, forced)
            return
        except DamagedFileError as error:
            maker = _maker(context, error.path)
            if maker in (None, name) or error.path in made_again:
                raise
            made_again.add(error.path)
            _LOGGER.warning("%s", error)
        own = stages_of(context.study)
        for earlier in own[own.index(maker) : own.index(name)]:
            yield _run_stage(context, earlier, forced=False)


def _maker(context: StageContext, path: Path) -> str | None:
    """The stage in whose folder a file lies."""
    for name in context.keys:
        if context.folder(name) in path.parents:
            return name
    return None


def run_stage(
    study: StudyFile, progress: Progress, name: str, limits: Limits | None = None
) -> StageReport:
    """Run one stage on the product of the one before it, unless it is done with those inputs.

    Several processes may run `label` at once: they share its calls, on machines without the
    models too. `limits` are those of the whole study.
    Raises UsageError where the stage before is not done with the present config; `report` needs
    none, it reads whatever labels the database holds.
    """
    why = why_left_out(study, name)
    if why is not None:
        raise UsageError(f"{name}: no stage of this study: {why}")
    with (
        opened(study.database_url, create=True) as engine,
        study_lock(study, shared=name in SHARED),
        study_spending(study, engine, limits or Limits()) as spending,
    ):
        only_database = name in SHARED
        if not only_database:
            _mark_broken_off(engine)
        context = StageContext(
            study, engine, progress, spending=spending, reads_database_only=only_database
        )
        if reads_previous(load_stage(name), study):
            own = stages_of(study)
            for earlier in own[: own.index(name)]:
                context = with_key(context, earlier)
                if not is_done(context, earlier):
                    raise UsageError(
                        f"{name}: stage `{earlier}` is not done with the present config; "
                        f"`difflens run {study.path.name} --until {name}` does both"
                    )
        context = with_key(context, name)
        with _saying_what_is_left(context, [name]):
            return _run_stage(context, name, forced=False)


def _mark_broken_off(engine: Engine) -> None:
    """Under the study's lock no run can be at work here: one that is `running` was killed."""
    with read_session(engine) as session:
        found = runs_broken_off(session, STAGE_NAMES)
    if found:
        with write_session(engine) as session:
            for run_id in found:
                finish_run(session, run_id, "interrupted", {"error": "its process was killed"})


def with_key(context: StageContext, name: str) -> StageContext:
    """The context that also knows the key of stage `name`; stages before it are keyed already."""
    stage = load_stage(name)
    if context.reads_database_only:
        recorded = recorded_key(context, name)
        if recorded is not None:
            return replace(context, keys=context.keys | {name: recorded})
    index = STAGE_NAMES.index(name)
    chained = index > 0 and reads_previous(stage, context.study)
    previous = context.keys[STAGE_NAMES[index - 1]] if chained else None
    with naming_extra(name):
        inputs = stage.inputs(context)
    content = {
        "stage": name,
        "inputs": inputs,
        "previous": previous,
        "seed": context.study.config.study.seed,
    }
    return replace(context, keys=context.keys | {name: json_sha256(content)})


def _check_config(context: StageContext, names: tuple[str, ...]) -> None:
    """Let every stage name what it lacks: a late one must not complain hours after the start."""
    for name in names:
        context = with_key(context, name)
    if "report" in names:
        _check_planted(context)
    if "label" in names and not is_done(context, "label"):
        require_judge(context.study)
        require_experiments(context.study.config.judge)
    if any(name in names and not is_done(context, name) for name in ("label", "categorize")):
        require_embedding(context.study)


def _check_planted(context: StageContext) -> None:
    with read_session(context.engine) as session:
        taxonomy = tree_of(session, context.study)
        version = stored_version(session, context.study)
        for slug in context.study.config.report.planted:
            if slug not in taxonomy:
                hint = (
                    taxonomy.nearest_hint(slug)
                    if version is None
                    else missing_category_hint(session, version.id, slug)
                )
                raise UsageError(f"report.planted.{slug}: no such category in the taxonomy; {hint}")


def is_done(context: StageContext, name: str) -> bool:
    """Whether the stage's newest finished run has its key and its product is whole.

    An older run with that key does not count: the database has moved on to another result since.
    Where its files are not needed they may all be on another machine.
    """
    with read_session(context.engine) as session:
        run = latest_done_run(session, name)
    if run is None or run.stage_key != context.keys[name]:
        return False
    if context.reads_database_only and not context.folder(name).exists():
        return True
    return load_stage(name).is_whole(context)


def _has_unanswered(context: StageContext, name: str) -> bool:
    """Whether a stage that is done has questions left, or one before it answered some since."""
    with read_session(context.engine) as session:
        run = latest_done_run(session, name)
        answers = latest_done_run(session, "label")
    if run is None:
        return False
    if name == "categorize" and answers is not None and answers.id > run.id:
        return True
    return bool((run.result or {}).get(UNANSWERED))


def _run_stage(context: StageContext, name: str, forced: bool) -> StageReport:
    started = time.monotonic()
    if not forced and is_done(context, name) and not _has_unanswered(context, name):
        return StageReport(name, True, "already done with the same inputs", 0.0)
    if name in READ_MODELS:
        require_extra("models", name)
    run_id: int | None = None
    before = context.spending.own
    try:
        with write_session(context.engine) as session:
            run_id = begin_run(
                session,
                name,
                config=context.study.config.model_dump(mode="json"),
                stage_key=context.keys[name],
                code_version=__version__,
            )
        context.spending.begin_run(context.engine, run_id)
        if forced:
            shutil.rmtree(context.folder(name), ignore_errors=True)
        with doing(f"stage {name}"):
            outcome = load_stage(name).run(context, run_id)
        with write_session(context.engine) as session:
            finish_run(session, run_id, "done", {"message": outcome.message, **outcome.result})
    except BaseException as error:
        if run_id is not None:
            status = "interrupted" if _was_stopped(error) else "failed"
            with write_session(context.engine) as session:
                finish_run(session, run_id, status, {"error": storable(str(error))[:2000]})
        raise
    seconds = time.monotonic() - started
    details = (*outcome.details, *_used_lines(context, before))
    return StageReport(name, False, outcome.message, seconds, details)


def _used_lines(context: StageContext, before: Usage) -> tuple[str, ...]:
    """What the judges used for a stage, and for the study so far."""
    spending = context.spending
    stage = spending.own.less(before)
    if not stage.tokens:
        return ()
    return (f"the judge used {stage.words}; the study so far {spending.used.words}",)


def _was_stopped(error: BaseException | None) -> bool:
    """Whether a signal or a budget ended the work, or an error on the way out of that."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, (KeyboardInterrupt, BudgetReachedError)):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def finished(context: StageContext, name: str) -> StageContext:
    """The context with the keys of all stages up to `name`; UsageError where that is not done."""
    own = stages_of(context.study)
    for earlier in own[: own.index(name) + 1]:
        context = with_key(context, earlier)
    if not is_done(context, name):
        raise UsageError(
            f"stage `{name}` is not done with the present config; "
            f"`difflens run {context.study.path.name} --until {name}` does it"
        )
    return context
