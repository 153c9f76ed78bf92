"""`difflens review` as a process of its own, and what stands in its way."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from review_studies import SAME_ORIGIN, Study

PAGES = ("/queue", "/categories", "/taxonomy", "/progress", "/audit", "/sql")


@dataclass
class Served:
    """A running server."""

    address: str
    started: subprocess.Popen[str] | None = None
    log: Path = Path()

    @property
    def process(self) -> subprocess.Popen[str]:
        """The process of a server that `reviewing` has started."""
        assert self.started is not None
        return self.started

    @property
    def place(self) -> tuple[str, int]:
        url = httpx.URL(self.address)
        return str(url.host), int(url.port or 0)

    def browser(self) -> httpx.Client:
        headers = {"sec-fetch-site": SAME_ORIGIN["sec-fetch-site"]}
        return httpx.Client(base_url=self.address, headers=headers, timeout=30)

    def connect(self, sent: bytes = b"") -> socket.socket:
        """A connection that has sent so much and nothing more."""
        connection = socket.create_connection(self.place, timeout=10)
        connection.sendall(sent)
        return connection

    def lines(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines()


@contextmanager
def reviewing(
    study: Study, folder: Path, *options: str, open_files: int | None = None
) -> Iterator[Served]:
    """The server of a study, ended with the block."""
    config = folder / "served.toml"
    named = '[[comparison]]\nname = "c"\ntarget = "a"\nreference = "b"\n'
    config.write_text(f'[database]\nurl = "{study.url}"\n{named}', encoding="utf-8")
    log = folder / "served.log"
    command = [sys.executable, "-m", "labeler.cli", "review", str(config), "--port", "0"]

    def limit() -> None:
        if open_files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))

    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [*command, "--reviewer", "ann", *options], stderr=errors, text=True, preexec_fn=limit
        )
    try:
        until = time.monotonic() + 60
        while "http://" not in log.read_text(encoding="utf-8"):
            assert process.poll() is None, log.read_text(encoding="utf-8")
            assert time.monotonic() < until
            time.sleep(0.05)
        address = log.read_text(encoding="utf-8").split()[2].rstrip("/")
        served = Served(address, process, log)
        with served.browser() as browser:
            for page in PAGES:
                assert browser.get(page).status_code == 200
        yield served
    finally:
        process.kill()
        process.wait()


def answers_within(served: Served, seconds: float) -> bool:
    """Whether every page answers in time, each over a connection of its own.

    Of three rounds one counts: a server that is held up fails them all, a busy machine does not.
    """
    return any(_slowest(served) < seconds for _ in range(3))


def _slowest(served: Served) -> float:
    taken = []
    for page in PAGES:
        begin = time.monotonic()
        with served.browser() as browser:
            answer = browser.get(page)
        taken.append(time.monotonic() - begin)
        assert answer.status_code == 200, answer.text[-300:]
    return max(taken)
