"""Runs: begin, finish, find one that is done."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from crosscoder.files import json_sha256
from labeler import __version__
from labeler.store.schema import Run, utc_now
from labeler.store.secrets import masked_values
from labeler.store.work_items import runs_at_work


def begin_run(
    session: Session,
    kind: str,
    config: dict[str, Any],
    stage_key: str | None = None,
    code_version: str = __version__,
    parent_run_id: int | None = None,
) -> int:
    """The id of a running run: the newest of its kind goes on if it is unfinished and has the
    same key, config and version; else a new one, so that of two results the later has the
    higher id. No password of a URL in the config is stored.
    """
    config = masked_values(config)
    newest = session.execute(
        select(Run).where(Run.kind == kind).order_by(Run.id.desc()).limit(1)
    ).scalar_one_or_none()
    if stage_key is not None and newest is not None and newest.status != "done":
        ours = (stage_key, json_sha256(config), code_version)
        if (newest.stage_key, newest.config_sha256, newest.code_version) == ours:
            newest.status = "running"
            newest.finished_at = None
            session.flush()
            return newest.id
    run = Run(
        kind=kind,
        status="running",
        config=config,
        config_sha256=json_sha256(config),
        stage_key=stage_key,
        code_version=code_version,
        parent_run_id=parent_run_id,
    )
    session.add(run)
    session.flush()
    return run.id


def finish_run(
    session: Session, run_id: int, status: str = "done", result: dict[str, Any] | None = None
) -> None:
    """Record how a run ended: `done`, `failed` or `interrupted`.

    Of several workers in one run the one that finished it counts, not one that gave up later.
    """
    run = session.get(Run, run_id)
    if run is None or (run.status == "done" and status != "done"):
        # A run whose beginning was rolled back has no end either.
        return
    run.status = status
    run.finished_at = utc_now()
    run.result = masked_values(result)
    session.flush()


def first_run_day(session: Session) -> date | None:
    """The UTC day of the study's first run, of whatever kind; None before it."""
    started: datetime | None = session.execute(select(func.min(Run.started_at))).scalar_one()
    return started.astimezone(UTC).date() if started is not None else None


def latest_done_run(session: Session, kind: str, stage_key: str | None = None) -> Run | None:
    """The newest finished run of a kind, with that stage key where one is given."""
    query = select(Run).where(Run.kind == kind, Run.status == "done")
    if stage_key is not None:
        query = query.where(Run.stage_key == stage_key)
    return session.execute(query.order_by(Run.id.desc()).limit(1)).scalar_one_or_none()


def runs_broken_off(session: Session, kinds: Sequence[str]) -> list[int]:
    """Runs of these kinds that are `running` although no worker has a piece of them in hand."""
    query = select(Run.id).where(Run.kind.in_(kinds), Run.status == "running").order_by(Run.id)
    at_work = runs_at_work(session)
    return [run_id for run_id in session.execute(query).scalars() if run_id not in at_work]
