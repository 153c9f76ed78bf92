"""Claims of workers: exclusive, renewed, given back, and taken over from the dead."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from seeding import seed
from sqlalchemy import Engine, func, select

from labeler.store.engine import read_session, write_session
from labeler.store.runs import Claims, Worker
from labeler.store.schema import WorkItem

KEYS = ["a" * 64, "b" * 64, "c" * 64]


@pytest.fixture
def run_id(engine: Engine) -> int:
    with write_session(engine) as session:
        return seed(session).run_id


def take(engine: Engine, claims: Claims, keys: list[str], stage: str = "explain") -> set[str]:
    with write_session(engine) as session:
        return claims.take(session, stage, keys)


def count(engine: Engine) -> int:
    with read_session(engine) as session:
        return session.execute(select(func.count(WorkItem.id))).scalar_one()


def ended_process() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_request_has_one_worker_at_a_time(engine: Engine, run_id: int) -> None:
    first, second = Claims(Worker.here(), run_id), Claims(Worker.here(), run_id)
    assert take(engine, first, KEYS[:2]) == set(KEYS[:2])
    assert take(engine, second, KEYS) == {KEYS[2]}
    with write_session(engine) as session:
        first.give_back(session, "explain", KEYS[:1])
    assert take(engine, second, KEYS) == {KEYS[0]}
    assert count(engine) == 3


def test_a_worker_gives_back_only_what_is_its_own(engine: Engine, run_id: int) -> None:
    first, second = Claims(Worker.here(), run_id), Claims(Worker.here(), run_id)
    take(engine, first, KEYS[:2])
    take(engine, second, KEYS[2:])
    with write_session(engine) as session:
        second.give_back(session, "explain", KEYS)
    assert count(engine) == 2
    with write_session(engine) as session:
        first.give_all_back(session)
    assert count(engine) == 0


def test_stages_have_claims_of_their_own(engine: Engine, run_id: int) -> None:
    first, second = Claims(Worker.here(), run_id), Claims(Worker.here(), run_id)
    take(engine, first, KEYS, "explain")
    assert take(engine, second, KEYS, "detect") == set(KEYS)


def test_a_lease_that_ran_out_is_taken_over_and_a_renewed_one_is_not(
    engine: Engine, run_id: int
) -> None:
    elsewhere = replace(Worker.here(), machine="another-machine")
    brief = Claims(elsewhere, run_id, lease_s=-1.0)
    take(engine, brief, KEYS)
    with write_session(engine) as session:
        Claims(elsewhere, run_id).renew(session)
    other = Claims(Worker.here(), run_id)
    assert take(engine, other, KEYS) == set()
    with write_session(engine) as session:
        brief.renew(session)
    assert take(engine, other, KEYS) == set(KEYS)


def test_claims_of_a_process_that_ended_here_are_free_at_once(engine: Engine, run_id: int) -> None:
    dead = replace(Worker.here(), process=ended_process())
    take(engine, Claims(dead, run_id), KEYS)
    assert take(engine, Claims(Worker.here(), run_id), KEYS) == set(KEYS)


def test_a_process_number_that_is_used_again_is_no_sign_of_life(
    engine: Engine, run_id: int
) -> None:
    reused = replace(Worker.here(), started="1")
    take(engine, Claims(reused, run_id), KEYS)
    assert take(engine, Claims(Worker.here(), run_id), KEYS) == set(KEYS)


def test_claims_of_a_process_elsewhere_are_left_alone(engine: Engine, run_id: int) -> None:
    elsewhere = replace(Worker.here(), machine="another-machine", process=ended_process())
    take(engine, Claims(elsewhere, run_id), KEYS)
    assert take(engine, Claims(Worker.here(), run_id), KEYS) == set()


@pytest.mark.postgres
@pytest.mark.parametrize("backend", ["postgres"], indirect=True)
def test_rows_that_another_transaction_has_locked_are_skipped(engine: Engine, run_id: int) -> None:
    elsewhere = Claims(replace(Worker.here(), machine="another-machine"), run_id, lease_s=-1.0)
    take(engine, elsewhere, KEYS)
    other = Claims(Worker.here(), run_id)
    with write_session(engine) as session:
        locked = select(WorkItem).where(WorkItem.item_key == KEYS[0]).with_for_update()
        session.execute(locked).one()
        assert take(engine, other, KEYS) == set(KEYS[1:])
