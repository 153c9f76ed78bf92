"""Runs of stages, and the claims of workers on requests.

Several processes share a batch and pay nothing twice: a claim is a row that its worker deletes in
the transaction that records the answer. It has a lease, which the worker renews; the lease of a
worker that died runs out, or is cut short where the dead process was on this machine.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from crosscoder.files import json_sha256
from labeler import __version__
from labeler.store.schema import Run, WorkItem, utc_now
from labeler.store.secrets import masked_values
from labeler.store.statements import chunks

LEARNING = "learning"
"""Key of a categorize run's result: which reviews its labels have learned from (`n_reviewed`,
`reviews_sha256`), of which judge and version, and the ids of the latents to review `next`."""


def begin_run(
    session: Session,
    kind: str,
    config: dict[str, Any],
    stage_key: str | None = None,
    code_version: str = __version__,
    parent_run_id: int | None = None,
) -> int:
    """Begin a run and return its id.

    The newest run of the kind continues where it is unfinished and has the same key, config and
    version. Else a new run begins, so that later results have higher ids. Passwords in URLs of the
    config are not stored.
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

    With several workers in one run, `done` is not replaced by a later failure.
    """
    run = session.get(Run, run_id)
    if run is None or (run.status == "done" and status != "done"):
        # The beginning of the run was rolled back: there is nothing to finish.
        return
    run.status = status
    run.finished_at = utc_now()
    run.result = masked_values(result)
    session.flush()


def first_run_day(session: Session) -> date | None:
    """UTC day of the study's first run of any kind; None without runs."""
    started: datetime | None = session.execute(select(func.min(Run.started_at))).scalar_one()
    return started.astimezone(UTC).date() if started is not None else None


def latest_done_run(session: Session, kind: str, stage_key: str | None = None) -> Run | None:
    """The newest finished run of a kind, with that stage key where one is given."""
    query = select(Run).where(Run.kind == kind, Run.status == "done")
    if stage_key is not None:
        query = query.where(Run.stage_key == stage_key)
    return session.execute(query.order_by(Run.id.desc()).limit(1)).scalar_one_or_none()


def runs_broken_off(session: Session, kinds: Sequence[str]) -> list[int]:
    """Runs of these kinds with status `running` in which no worker holds a claim."""
    query = select(Run.id).where(Run.kind.in_(kinds), Run.status == "running").order_by(Run.id)
    at_work = runs_at_work(session)
    return [run_id for run_id in session.execute(query).scalars() if run_id not in at_work]


LEASE_S = 60.0
"""Seconds after which another worker may take a claim that was not renewed."""


@dataclass(frozen=True)
class Worker:
    """A process, and a batch in it, that claims work; `name` is stored with its claims."""

    machine: str
    process: int
    started: str
    batch: str

    @property
    def name(self) -> str:
        """Unique name of the worker."""
        return f"{self.machine}/{self.process}/{self.started}/{self.batch}"

    @classmethod
    def here(cls) -> Worker:
        """A new worker of this process."""
        process = os.getpid()
        return cls(_machine(), process, _started(process), uuid.uuid4().hex[:12])


@dataclass(frozen=True)
class Claims:
    """The claims of one worker in one stage of one run."""

    worker: Worker
    run_id: int
    lease_s: float = LEASE_S

    def take(self, session: Session, stage: str, keys: Iterable[str]) -> set[str]:
        """Claim requests that no other worker holds; returns this worker's claims."""
        taken: set[str] = set()
        until = _now(session) + timedelta(seconds=self.lease_s)
        for part in chunks(sorted(set(keys))):
            taken |= self._insert(session, stage, part, until)
            held = [key for key in part if key not in taken]
            if held:
                taken |= self._take_over(session, stage, held, until)
        return taken

    def give_back(self, session: Session, stage: str, keys: Iterable[str]) -> None:
        """Drop claims whose requests are answered or will not be sent."""
        for part in chunks(sorted(set(keys))):
            session.execute(
                delete(WorkItem)
                .where(
                    WorkItem.stage == stage,
                    WorkItem.item_key.in_(part),
                    WorkItem.claimed_by == self.worker.name,
                )
                .execution_options(synchronize_session=False)
            )

    def give_all_back(self, session: Session) -> None:
        """Drop every claim of this worker."""
        session.execute(
            delete(WorkItem)
            .where(WorkItem.claimed_by == self.worker.name)
            .execution_options(synchronize_session=False)
        )

    def renew(self, session: Session) -> None:
        """Renew every lease of this worker."""
        session.execute(
            update(WorkItem)
            .where(WorkItem.claimed_by == self.worker.name)
            .values(claimed_until=_now(session) + timedelta(seconds=self.lease_s))
            .execution_options(synchronize_session=False)
        )

    def _insert(self, session: Session, stage: str, keys: list[str], until: datetime) -> set[str]:
        values = [
            {
                "run_id": self.run_id,
                "stage": stage,
                "item_key": key,
                "status": "claimed",
                "claimed_by": self.worker.name,
                "claimed_until": until,
            }
            for key in keys
        ]
        on_postgres = session.get_bind().dialect.name == "postgresql"
        make = postgresql.insert if on_postgres else sqlite.insert
        statement = make(WorkItem).on_conflict_do_nothing().returning(WorkItem.item_key)
        return set(session.execute(statement, values).scalars())

    def _take_over(
        self, session: Session, stage: str, keys: list[str], until: datetime
    ) -> set[str]:
        """Claims that expired or whose local process has ended; locked rows are skipped."""
        now = _now(session)
        rows = session.execute(
            select(WorkItem.id, WorkItem.item_key, WorkItem.claimed_by, WorkItem.claimed_until)
            .where(WorkItem.stage == stage, WorkItem.item_key.in_(keys))
            .with_for_update(skip_locked=True)
        ).all()
        gone = {name for name in {row.claimed_by for row in rows} if _is_gone(name)}
        free = [
            row
            for row in rows
            if row.claimed_by in gone or row.claimed_until is None or row.claimed_until <= now
        ]
        if free:
            session.execute(
                update(WorkItem)
                .where(WorkItem.id.in_([row.id for row in free]))
                .values(
                    run_id=self.run_id,
                    status="claimed",
                    claimed_by=self.worker.name,
                    claimed_until=until,
                )
                .execution_options(synchronize_session=False)
            )
        return {row.item_key for row in free}


def runs_at_work(session: Session) -> set[int]:
    """Runs in which a worker, on this machine or elsewhere, holds a claim."""
    query = select(WorkItem.run_id, WorkItem.claimed_by).where(
        WorkItem.claimed_until > _now(session)
    )
    return {run_id for run_id, worker in session.execute(query) if not _is_gone(worker)}


def _now(session: Session) -> datetime:
    """The database server's time where there is one, because workers' clocks may differ."""
    if session.get_bind().dialect.name != "postgresql":
        return utc_now()
    moment: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    return moment


def _is_gone(name: str | None) -> bool:
    """Whether a worker was a process of this machine that has ended."""
    if name is None:
        return True
    machine, process, started, _ = name.split("/")
    if machine != _machine():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return _started(int(process)) != started


def _machine() -> str:
    """Identifies this machine, its boot and its PID namespace (containers)."""
    parts = [socket.gethostname().replace("/", "-")]
    boot, space = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if boot.is_file():
        parts.append(boot.read_text(encoding="ascii").strip()[:8])
    if space.exists():
        parts.append(str(space.readlink()).strip("pid:[]"))
    return "-".join(parts)[:120]


def _started(process: int) -> str:
    """Start of a process in ticks since boot; `0` where unknown."""
    try:
        words = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2]
    except OSError:
        return "0"
    return words.split()[19]
