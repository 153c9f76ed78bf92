"""A question runs in a process that is ended in time, whatever the statement and whoever goes."""

from __future__ import annotations

import datetime
import signal
import subprocess
import sys
import time
import uuid
from decimal import Decimal
from pathlib import Path

import hostile_sql
import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import children, is_running

from labeler.errors import UsageError, WorkError
from labeler.store.query.query import UnwantedError, ask_in_process, run_limited, run_query
from labeler.store.query.result import HEADER_BYTES, Limits, as_json, pack, unpack

pytestmark = pytest.mark.slow

TIMEOUT_S = 0.5
LASTING = hostile_sql.SQLITE_ONE_STEP["instr"]


def assert_stopped_in_time(url: str, statement: str) -> None:
    before = children()
    begin = time.monotonic()
    with pytest.raises((UsageError, WorkError), match="sql: ") as error:
        run_query(url, statement, timeout=TIMEOUT_S)
    assert time.monotonic() - begin < TIMEOUT_S + 1
    assert "\n" not in str(error.value)
    assert children() == before


@pytest.mark.parametrize("name", hostile_sql.SQLITE_ONE_STEP)
def test_a_step_without_end_is_stopped_within_a_second_of_the_deadline(
    name: str, sqlite_url: str
) -> None:
    assert_stopped_in_time(sqlite_url, hostile_sql.SQLITE_ONE_STEP[name])


@pytest.mark.postgres
@pytest.mark.parametrize("backend", ["postgres"])
@pytest.mark.parametrize("name", hostile_sql.POSTGRESQL_LASTING)
def test_lasting_questions_to_a_server_are_stopped_within_a_second_of_the_deadline(
    name: str, database_url: str
) -> None:
    assert_stopped_in_time(database_url, hostile_sql.POSTGRESQL_LASTING[name])
    running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'FETCH%'"
    time.sleep(0.3)
    assert run_query(database_url, running).rows == ((1,),)


def test_a_question_that_nobody_waits_for_any_more_is_ended(database_url: str) -> None:
    before = children()
    statement = hostile_sql.ENDLESS + "SELECT count(*) FROM t"
    begin = time.monotonic()
    with pytest.raises(UnwantedError):
        run_limited(database_url, statement, Limits(), lambda: time.monotonic() > begin + 0.5)
    assert time.monotonic() - begin < 1.5
    assert children() == before


def asking(url: str) -> tuple[subprocess.Popen[str], str]:
    """`difflens sql` in the middle of an endless question, and the process of the question."""
    folder = Path(url.removeprefix("sqlite:///")).parent
    (folder / "study.toml").write_text(f'[database]\nurl = "{url}"\n', encoding="utf-8")
    command = [sys.executable, "-m", "labeler.cli", "sql", str(folder / "study.toml"), LASTING]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not (found := children(process.pid)):
        assert time.monotonic() < until
        time.sleep(0.05)
    time.sleep(0.3)
    return process, found.pop()


@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_question_ends_with_the_command_that_asked_it(
    sqlite_url: str, sent: signal.Signals, status: int
) -> None:
    process, child = asking(sqlite_url)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == status
    assert "Traceback" not in errors
    until = time.monotonic() + 2
    while is_running(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_running(child)


def test_a_process_that_dies_is_one_line(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os, sys; sys.stdin.readline(); os.kill(os.getpid(), {})"
    for sent, words in (
        (signal.SIGSEGV, "ended with status -11"),
        (signal.SIGKILL, "more memory"),
        (signal.SIGALRM, "stopped after"),
    ):
        monkeypatch.setattr("labeler.store.query.query._CODE", code.format(int(sent)))
        with pytest.raises(WorkError, match=f"^sql: .*{words}"):
            run_query(sqlite_url, "SELECT 1")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x00\x00\x02{}",
        b"\x00\x00\x00\x08[1, 2, 3",
        (2**20).to_bytes(4, "big") + b"[" * 2**20,
        pack("rows", [[1]])[:-1] + b'{"os.system": 1}]',
    ],
)
def test_what_is_no_answer_is_one_line(
    sent: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "sent"
    file.write_bytes(sent)
    code = f"import os, sys; sys.stdin.readline(); os.write(1, open({str(file)!r}, 'rb').read())"
    monkeypatch.setattr("labeler.store.query.query._CODE", code)
    with pytest.raises(WorkError, match=r"^sql: "):
        ask_in_process("sqlite", "x.db", "SELECT 1", Limits(timeout_s=1))


def test_an_answer_beyond_its_limit_never_reaches_the_asker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = "import os, sys; sys.stdin.readline()\nwhile True: os.write(1, b'\\xff' * 65536)"
    monkeypatch.setattr("labeler.store.query.query._CODE", code)
    with pytest.raises(WorkError, match="the answer exceeds"):
        ask_in_process("sqlite", "x.db", "SELECT 1", Limits(max_bytes=1_000_000))


PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=()))
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.dates()
    | st.datetimes()
    | st.timedeltas()
    | st.uuids()
)
NESTED = st.recursive(
    PLAIN, lambda part: st.lists(part) | st.dictionaries(st.text(), part), max_leaves=8
)


@given(row=st.lists(NESTED))
def test_every_value_arrives_as_it_was_sent(row: list[object]) -> None:
    sent = pack("rows", [[as_json(value) for value in row]])
    kind, rows = unpack(sent[HEADER_BYTES:])
    assert (kind, rows) == ("rows", [row])


def test_values_of_both_databases_have_their_own_types(database_url: str) -> None:
    (row,) = run_query(database_url, "SELECT 1, 2.5, 'ä', NULL, CAST('x' AS text)").rows
    assert row[0] == 1
    assert float(row[1]) == 2.5
    assert row[2:] == ("ä", None, "x")


@pytest.mark.postgres
@pytest.mark.parametrize("backend", ["postgres"])
def test_types_that_only_a_server_has_are_kept(database_url: str) -> None:
    (row,) = run_query(
        database_url,
        "SELECT 1.50, date '2026-01-02', timestamptz '2026-01-02 03:04:05+00', interval '1 day',"
        " '{\"bytes\": [1, {\"a\": null}]}'::jsonb, ARRAY[1, 2], '\\x00ff'::bytea, true,"
        " '00000000-0000-0000-0000-000000000001'::uuid, int4range(1, 3)",
    ).rows
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    assert row[:2] == (Decimal("1.50"), datetime.date(2026, 1, 2))
    assert row[2] == moment
    assert row[3:9] == (
        datetime.timedelta(days=1),
        {"bytes": [1, {"a": None}]},
        [1, 2],
        b"\x00\xff",
        True,
        uuid.UUID(int=1),
    )
    assert row[9] == "[1, 3)"


def test_half_a_character_is_refused_in_one_line(database_url: str) -> None:
    with pytest.raises(UsageError, match="half of a character"):
        run_query(database_url, "SELECT '\ud800'")
