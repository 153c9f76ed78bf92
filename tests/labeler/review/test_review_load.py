"""Pages answer under hard questions, slow senders, and writers that keep the database."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import hostile_sql
import httpx
import pytest
from browser import serving
from processes import children, is_running
from review_studies import Study, form
from served import Served, answers_within, reviewing
from sqlalchemy import text

from crosscoder.limits import MAX_CONNECTIONS
from labeler.review.serving import _LIMITS, Crowd, LimitedProtocol, Phase, most_connections

pytestmark = pytest.mark.slow

HARD = [*hostile_sql.SQLITE_ONE_STEP.values(), *hostile_sql.SQLITE_BOMBS[:4]]


@pytest.fixture
def served(small: Study, tmp_path: Path) -> Iterator[Served]:
    with reviewing(small, tmp_path) as server:
        yield server


def ask(served: Served, statement: str) -> httpx.Response:
    with served.browser() as browser:
        return browser.post("/sql", data={"statement": statement, "format": "table"})


def test_ten_hard_questions_at_once_leave_every_page_answering(served: Served) -> None:
    assert len(HARD) == 10
    with ThreadPoolExecutor(10) as pool:
        asked = [pool.submit(ask, served, statement) for statement in HARD]
        time.sleep(0.5)
        assert answers_within(served, 2)
        answers = [each.result() for each in asked]
    busy = [answer for answer in answers if answer.status_code == 503]
    assert len(busy) >= 4
    assert all("busy" in answer.text and answer.headers["retry-after"] for answer in busy)
    assert all(answer.status_code in (200, 400, 503) for answer in answers)
    assert children(served.process.pid) == set()
    assert ask(served, "SELECT 41 + 1 AS n").status_code == 200


def test_a_question_ends_with_the_browser_that_asked_it(served: Served) -> None:
    data = {"statement": HARD[0], "format": "table"}
    with served.browser() as browser, pytest.raises(httpx.ReadTimeout):
        browser.post("/sql", data=data, timeout=1)
    assert_ends(children(served.process.pid))


def test_a_slow_reader_keeps_its_answer_and_a_silent_one_does_not() -> None:
    crowd = Crowd(10)
    member = LimitedProtocol.__new__(LimitedProtocol)
    member.crowd, member.address = crowd, "127.0.0.1"
    member.flow, member.transport = Mock(write_paused=True), Mock()
    crowd.members.add(member)
    unread = member.transport.get_write_buffer_size
    unread.return_value = 4_000_000
    member._await_reading()
    for unread.return_value in (3_000_000, 2_900_000):
        crowd.close_overdue(member.latest)
        assert member in crowd.members
    crowd.close_overdue(member.latest)
    assert member not in crowd.members


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_question_ends_with_the_server(served: Served, sent: signal.Signals) -> None:
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, served, HARD[0])
        until = time.monotonic() + 10
        while not (running := children(served.process.pid)):
            assert time.monotonic() < until
            time.sleep(0.05)
        served.process.send_signal(sent)
        served.process.wait(8)
        assert asked.exception() is not None or asked.result().status_code >= 400
    assert_ends(running)


def assert_ends(pids: set[str]) -> None:
    until = time.monotonic() + 3
    while any(map(is_running, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(is_running, pids))


HALF_OPEN = {
    "silent": b"",
    "half a header": b"GET /queue HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ",
    "a body that does not come": (
        b"POST /latents/1 HTTP/1.1\r\nHost: 127.0.0.1\r\nSec-Fetch-Site: same-origin\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 900\r\n\r\naction="
    ),
    "idle after an answer": b"GET /static/none HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "nonsense": b"\x00\x01\x02 nonsense\r\n\r\n",
}


@pytest.mark.parametrize("kind", HALF_OPEN)
def test_half_open_connections_leave_every_page_answering(
    kind: str, small: Study, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("labeler.review.serving.most_connections", lambda: 40)
    for address in serving(small):
        served = Served(address)
        assert answers_within(served, 30)
        open_ones = [served.connect(HALF_OPEN[kind]) for _ in range(200)]
        assert answers_within(served, 2)
        open_ones += [served.connect(HALF_OPEN[kind]) for _ in range(50)]
        assert answers_within(served, 2)
        for connection in open_ones:
            connection.close()
        assert answers_within(served, 2)
    assert len(caplog.records) <= 4, caplog.text[:2_000]


def test_connections_stay_within_the_limit_of_open_files(small: Study, tmp_path: Path) -> None:
    with reviewing(small, tmp_path, open_files=320) as served:
        open_ones = [served.connect(HALF_OPEN["half a header"]) for _ in range(700)]
        assert answers_within(served, 2)
        assert len(list(Path(f"/proc/{served.process.pid}/fd").iterdir())) < 200
        for connection in open_ones:
            connection.close()
        assert len(served.lines()) <= 3, served.lines()[:20]


@pytest.mark.parametrize(
    ("n_files", "most"), [(1024, 768), (256, 64), (320, 80), (1 << 20, MAX_CONNECTIONS)]
)
def test_the_limit_of_open_files_gives_the_number_of_connections(n_files: int, most: int) -> None:
    assert most_connections(n_files) == most


@pytest.mark.parametrize("kind", ["silent", "half a header", "a body that does not come"])
def test_a_connection_that_sends_too_slowly_is_closed(
    kind: str, small: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    for phase in (Phase.HEADER, Phase.BODY):
        monkeypatch.setitem(_LIMITS, phase, ("were too slow", 0.5))
    for address in serving(small):
        connection = Served(address).connect(HALF_OPEN[kind])
        begin = time.monotonic()
        with contextlib.suppress(OSError):
            for _ in range(80):
                connection.sendall(b"x")
                time.sleep(0.1)
        assert time.monotonic() - begin < 4
        connection.close()


def test_a_header_beyond_its_limit_is_refused(served: Served) -> None:
    connection = served.connect(b"GET / HTTP/1.1\r\nX-A: " + b"a" * 60_000)
    connection.settimeout(5)
    assert connection.recv(12) == b"HTTP/1.1 400"
    connection.close()


def test_a_write_lock_of_another_program_stops_decisions_alone(
    served: Served, small: Study
) -> None:
    first = small.seed.target[0]
    url = f"/latents/{first}"
    other = sqlite3.connect(small.url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    said = form("set", category="humour", explanation="my own words", note="a note")
    with served.browser() as browser, ThreadPoolExecutor(30) as pool:
        begin = time.monotonic()
        posts = [pool.submit(browser.post, url, data=said) for _ in range(30)]
        time.sleep(0.3)
        assert answers_within(served, 1)
        answers = [post.result() for post in posts]
        assert time.monotonic() - begin < 10
        assert {answer.status_code for answer in answers} == {503}
        for answer in answers:
            assert "nothing was recorded" in answer.text
            assert "my own words" in answer.text
            assert 'name="base_revision" value="0"' in answer.text
        other.execute("ROLLBACK")
        again = browser.post(url, data=said)
        assert again.status_code == 303
        assert "a note" in browser.get(url).text
    other.close()


@pytest.mark.postgres
@pytest.mark.parametrize("backend", ["postgres"])
def test_a_row_lock_of_another_program_stops_decisions_alone(study: Study, tmp_path: Path) -> None:
    said = form("set", category="humour", explanation="my own words")
    with (
        reviewing(study, tmp_path) as served,
        served.browser() as browser,
        study.engine.connect() as other,
        ThreadPoolExecutor(10) as pool,
    ):
        other.execute(text("SELECT id FROM comparison FOR UPDATE"))
        url = f"/latents/{study.seed.target[0]}"
        posts = [pool.submit(browser.post, url, data=said) for _ in range(10)]
        time.sleep(0.3)
        assert answers_within(served, 1)
        answers = [post.result() for post in posts]
        assert {answer.status_code for answer in answers} == {503}
        assert all("my own words" in answer.text for answer in answers)
        other.rollback()
        assert browser.post(url, data=said).status_code == 303


def test_every_process_shows_a_decision_as_soon_as_it_is_recorded(
    small: Study, tmp_path: Path
) -> None:
    latents = [*small.seed.target, *small.seed.reference]
    with reviewing(small, tmp_path, "--workers", "3") as served:
        assert len(children(served.process.pid)) == 3
        for number in range(24):
            latent = latents[number % len(latents)]
            with served.browser() as browser:
                page = browser.get(f"/latents/{latent}").text
            revision = int(page.split('name="base_revision" value="')[1].split('"')[0])
            assert revision == number // len(latents)
            words = f"words number {number}"
            said = form("none", revision, explanation=words)
            with served.browser() as browser:
                assert browser.post(f"/latents/{latent}", data=said).status_code == 303
            with served.browser() as browser:
                assert words in browser.get(f"/latents/{latent}").text


def test_a_process_that_dies_is_started_again_and_all_end_together(
    small: Study, tmp_path: Path
) -> None:
    with reviewing(small, tmp_path, "--workers", "2") as served:
        before = children(served.process.pid)
        os.kill(int(min(before)), signal.SIGKILL)
        until = time.monotonic() + 10
        while len(now := children(served.process.pid)) < 2 or now == before:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert answers_within(served, 2)
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(10) == 130
        assert_ends(now | before)
        assert "Traceback" not in "\n".join(served.lines())


def test_processes_end_with_a_server_that_is_killed(small: Study, tmp_path: Path) -> None:
    with reviewing(small, tmp_path, "--workers", "2") as served:
        running = children(served.process.pid)
        served.process.kill()
        served.process.wait()
        assert_ends(running)
