"""How fast the review pages answer with 100,000 latents, 3 judge runs and 20,000 decisions.

    python benchmarks/review.py [--quick] [--database URL] [--requests N]
                                [--clients N] [--workers N] [--think S] [--seconds S]
                                [--one-client N]

Every page is asked for over loopback from a running server, one request after another, each for
another latent, filter or page. Decisions are mixed in, so the queue in memory follows the database
between requests. The last line is one JSON object of milliseconds.

With `--clients N` the same mix of pages and decisions is also asked for by N clients at once, each
a thread with a name of its own, against a server of `--workers` processes. A client is a reviewer
who looks at latents (3 of 10 turns), decides on them (4: the page, and at once the answer to it),
looks at the queue (1), at a filtered queue (1) and at the progress (1). There are two kinds:

* reviewers at work (`p95_ratio`): before each turn a client thinks, exponentially distributed with
  a mean of `--think` seconds. A page holds 24 windows of text; a second is less than one needs.
* closed loop (`p95_ratio_closed_loop`): no client ever pauses. Whatever the server does, N such
  clients on c cores wait N / c times as long as one on average; this shows how near it comes.

Each ratio is the p95 of N clients to that of one client, measured right before on the same server:
one client asks until it has `--one-client` answers, in a tenth of the thinking time. Alone it never
waits for another, so a pause only makes its caches colder: the shorter one makes the ratio larger.
Every status is counted: `busy` are 503 (nothing was recorded, send again), `failed` is whatever
else is no page, no redirection and no conflict, a broken connection too.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import platform
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import httpx
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from big_study import QUICK, Size, build

from labeler.review.server import build_app, build_context, listening
from labeler.review.serving import serve_context
from labeler.store.database_url import sqlite_file
from labeler.store.engine import open_engine

HEADERS = {"sec-fetch-site": "same-origin"}
SLUGS = ("safety", "multilingual", "code-generation", "hallucination", "none", "technical")
WORDS = ("refusal", "french", "poem doctor", "code", "list heading")
ORDERS = ("uncertain", "disagreement", "random", "index")


@contextmanager
def running(url: str, workers: int = 1) -> Iterator[str]:
    """A server on a free port, in processes of its own; yields its address."""
    listener = listening("127.0.0.1", 0)
    process = multiprocessing.get_context("fork").Process(
        target=_serve, args=(url, listener, workers)
    )
    process.start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()
    try:
        yield address
    finally:
        os.kill(process.pid or 0, signal.SIGTERM)
        process.join()


def _serve(url: str, listener: socket.socket, workers: int) -> None:
    engine = open_engine(url)
    context = build_context(engine, url, study="big", reviewer="reviewer-0", workers=workers)
    serve_context(context, build_app(context), listener, workers)


def measure(
    ask: Callable[[int], httpx.Response], before: Callable[[int], object], n: int
) -> dict[str, float]:
    """Milliseconds of `n` requests in turn; `before` is not timed, the first is a rehearsal."""
    taken = []
    for number in range(n + 1):
        before(number)
        begin = time.perf_counter()
        answer = ask(number)
        taken.append(1000 * (time.perf_counter() - begin))
        assert answer.status_code in (200, 303), (answer.status_code, answer.text[-300:])
    taken = taken[1:]
    return {
        "median_ms": round(float(np.median(taken)), 1),
        "p95_ms": round(float(np.percentile(taken, 95)), 1),
        "max_ms": round(max(taken), 1),
    }


class Visitor:
    """A reviewer who looks at pages and decides."""

    def __init__(self, client: httpx.Client, size: Size) -> None:
        self.client = client
        self.size = size
        self.rng = np.random.default_rng(1)
        self.pending: tuple[int, str] = (0, "0")

    def prepare(self, _: int) -> None:
        """Look at a latent that is to be decided on."""
        latent_id = int(self.rng.integers(1, self.size.latents + 1))
        page = self.client.get(f"/latents/{latent_id}").text
        revision = page.split('name="base_revision" value="')[1].split('"')[0]
        self.pending = (latent_id, revision)

    def decide(self, number: int) -> httpx.Response:
        """Decide on it: the answer names the next latent."""
        latent_id, revision = self.pending
        return self.client.post(
            f"/latents/{latent_id}?status=open&category={SLUGS[number % len(SLUGS)]}",
            data={
                "action": "set",
                "category": SLUGS[number % 4],
                "base_revision": revision,
                "made_for": "reviewer-0",
                "shown": "1",
                "elapsed_ms": "5000",
            },
        )

    def prepare_and_decide(self, number: int) -> None:
        """A decision before every third page, so that pages are measured on a moving queue."""
        if number % 3 == 0:
            self.prepare(number)
            self.decide(number)

    def latent(self, number: int) -> httpx.Response:
        """The page of a latent that has evidence."""
        step = max(1, self.size.latents // self.size.with_evidence)
        latent_id = 1 + step * int(self.rng.integers(self.size.with_evidence))
        return self.client.get(f"/latents/{latent_id}?order={ORDERS[number % 4]}")


def pages(visitor: Visitor) -> dict[str, Callable[[int], httpx.Response]]:
    """What is measured, by name."""
    client = visitor.client
    paths: dict[str, Callable[[int], str]] = {
        "queue": lambda n: f"/queue?order={ORDERS[n % 4]}",
        "queue, filtered": lambda n: (
            f"/queue?category={SLUGS[n % len(SLUGS)]}&confidence=low"
            f"&side={'target' if n % 2 else 'reference'}"
        ),
        "queue, text search": lambda n: f"/queue?text={WORDS[n % len(WORDS)]}",
        "categories": lambda n: "/categories",
        "taxonomy": lambda n: "/taxonomy",
        "progress": lambda n: "/progress",
        "audit": lambda n: "/audit",
        "sql page": lambda n: "/sql?saved=coverage",
    }
    asked = {name: _getter(client, path) for name, path in paths.items()}
    return {"latent": visitor.latent, **asked}


def _getter(client: httpx.Client, path: Callable[[int], str]) -> Callable[[int], httpx.Response]:
    return lambda number: client.get(path(number))


class Reviewer:
    """One client of many: a light one, so that the machine's time goes to the server."""

    def __init__(self, address: str, size: Size, number: int) -> None:
        self.host = address.removeprefix("http://")
        self.connection = http.client.HTTPConnection(self.host, timeout=LONGEST_ANSWER_S)
        self.size = size
        self.rng = np.random.default_rng(number)
        self.turn = int(self.rng.integers(len(MIX)))
        self.taken: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.cookie = ""
        self._sign_in(f"reviewer-{number}")

    def work(self, is_over: Callable[[Reviewer], bool], think_s: float) -> None:
        """Ask for pages and decide until it is over."""
        step = max(1, self.size.latents // self.size.with_evidence)
        while not is_over(self):
            if think_s:
                time.sleep(float(self.rng.exponential(think_s)))
            self.turn += 1
            latent_id = 1 + step * int(self.rng.integers(self.size.with_evidence))
            kind = MIX[self.turn % len(MIX)]
            if kind == "decide":
                self._decide(latent_id)
            else:
                slug = SLUGS[self.turn % len(SLUGS)]
                self._ask("GET", kind.format(latent=latent_id, slug=slug))

    def _sign_in(self, name: str) -> None:
        headers = HEADERS | {"Content-Type": "application/x-www-form-urlencoded"}
        self.connection.request("POST", "/sign-in", urlencode({"name": name}), headers)
        answer = self.connection.getresponse()
        answer.read()
        self.cookie = str(answer.getheader("set-cookie")).partition(";")[0]

    def _decide(self, latent_id: int) -> None:
        page = self._ask("GET", f"/latents/{latent_id}")
        if page is None:
            return
        made_for = page.split('name="made_for" value="')[1].split('"')[0]
        revision = page.split('name="base_revision" value="')[1].split('"')[0]
        said = {
            "action": "set", "category": SLUGS[self.turn % 4], "base_revision": revision,
            "shown": "1", "made_for": made_for, "elapsed_ms": "5000",
        }  # fmt: skip
        self._ask("POST", f"/latents/{latent_id}?status=open", urlencode(said))

    def _ask(self, method: str, path: str, body: str | None = None) -> str | None:
        """The text of a page, None where there was none; the answer is timed and counted."""
        headers = HEADERS | {
            "Content-Type": "application/x-www-form-urlencoded",
            "Cookie": self.cookie,
        }
        begin = time.perf_counter()
        try:
            status, text = self._exchange(method, path, body, headers)
        except (http.client.HTTPException, OSError) as error:
            self.connection.close()
            status, text = 0, ""
            self.statuses[type(error).__name__] += 1
        else:
            self.statuses[str(status)] += 1
        self.taken.append(1000 * (time.perf_counter() - begin))
        return text if status == 200 else None

    def _exchange(
        self, method: str, path: str, body: str | None, headers: dict[str, str]
    ) -> tuple[int, str]:
        for is_last in (False, True):
            try:
                self.connection.request(method, path, body, headers)
                answer = self.connection.getresponse()
                return answer.status, answer.read().decode()
            except (http.client.RemoteDisconnected, ConnectionError):
                # The server has closed an idle connection: a browser, too, opens another one.
                self.connection.close()
                if is_last:
                    raise
        raise AssertionError


LONGEST_ANSWER_S = 60.0
ANSWERED = ("200", "303", "409")
"""A page, a redirection after a decision, and a conflict with somebody's newer decision."""
MIX = (
    "/latents/{latent}", "decide", "/latents/{latent}", "decide", "/queue",
    "/latents/{latent}", "decide", "/queue?category={slug}&confidence=low", "decide", "/progress",
)  # fmt: skip
"""What a reviewer asks for in turn; a decision is the page of a latent and the answer to it."""


def together(
    reviewers: list[Reviewer], think_s: float, is_over: Callable[[Reviewer], bool]
) -> dict[str, float | int]:
    """Milliseconds per request of clients at once, and how many were answered how."""
    for reviewer in reviewers:
        reviewer.taken.clear()
        reviewer.statuses.clear()
    begin = time.monotonic()
    threads = [
        threading.Thread(target=reviewer.work, args=(is_over, think_s)) for reviewer in reviewers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - begin
    taken = [each for reviewer in reviewers for each in reviewer.taken]
    statuses = sum((reviewer.statuses for reviewer in reviewers), Counter[str]())
    busy = statuses["503"]
    return {
        "clients": len(reviewers),
        "requests": len(taken),
        "busy": busy,
        "failed": len(taken) - busy - sum(statuses[status] for status in ANSWERED),
        "per_second": round(len(taken) / seconds, 1),
        "median_ms": round(float(np.median(taken)), 1),
        "p95_ms": round(float(np.percentile(taken, 95)), 1),
        "max_ms": round(max(taken), 1),
    }


def many_clients(
    url: str, size: Size, n: int, workers: int, think_s: float, seconds: float, n_alone: int
) -> dict[str, object]:
    """One client and `n` at once, both ways, on one server; the first second is a rehearsal."""

    def until(moment: float) -> Callable[[Reviewer], bool]:
        return lambda _: time.monotonic() > moment

    found: dict[str, object] = {"workers": workers, "think_s": think_s}
    with running(url, workers) as address:
        reviewers = [Reviewer(address, size, number) for number in range(n)]
        together(reviewers, 0.0, until(time.monotonic() + 1))
        for name, pause in (("", think_s), ("_closed_loop", 0.0)):
            one = together(
                reviewers[:1], pause / 10, lambda reviewer: len(reviewer.taken) >= n_alone
            )
            many = together(reviewers, pause, until(time.monotonic() + seconds))
            found[f"one_client{name}"], found[f"clients{name}"] = one, many
            found[f"p95_ratio{name}"] = round(many["p95_ms"] / one["p95_ms"], 2)
            print(f"one client{name:13} {one}\n{n} clients{name:14} {many}")
    return found


def main() -> None:
    """Build the study unless one is named, measure every page, print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--database", help="a study that benchmarks/big_study.py built")
    parser.add_argument("--requests", type=int, default=60, help="of each page; 0 = none")
    parser.add_argument("--clients", type=int, default=0, help="also measure so many at once")
    parser.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--think", type=float, default=1.0, help="mean seconds between requests")
    parser.add_argument("--one-client", type=int, default=280, help="requests of one alone")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each run of clients")
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else Size()
    with tempfile.TemporaryDirectory() as folder:
        url = arguments.database or f"sqlite:///{Path(folder) / 'big.db'}"
        begin = time.perf_counter()
        if arguments.database is None:
            build(url, size)
        built = time.perf_counter() - begin
        found: dict[str, object] = {}
        if arguments.requests:
            found = report(url, size, arguments.requests, built)
        if arguments.clients:
            found |= many_clients(
                url,
                size,
                arguments.clients,
                arguments.workers,
                arguments.think,
                arguments.seconds,
                arguments.one_client,
            )
        print(json.dumps(found))


def report(url: str, size: Size, n: int, built: float) -> dict[str, object]:
    """All figures."""
    found: dict[str, object] = {
        "latents": size.latents,
        "judge_runs": size.judges,
        "decisions": size.decisions,
        "requests_per_page": n,
        "database": "sqlite" if sqlite_file(url) else "postgresql",
        "python": platform.python_version(),
        "build_s": round(built, 1),
    }
    with (
        running(url) as address,
        httpx.Client(base_url=address, headers=HEADERS, timeout=60) as client,
    ):
        begin = time.perf_counter()
        client.get("/queue")
        found["first_page_s"] = round(time.perf_counter() - begin, 2)
        client.get("/categories")
        every: dict[str, dict[str, float]] = {}
        visitor = Visitor(client, size)
        for name, ask in pages(visitor).items():
            every[name] = measure(ask, visitor.prepare_and_decide, n)
            print(f"{name:24} {every[name]}")
        every["decision"] = measure(visitor.decide, visitor.prepare, n)
        print(f"{'decision':24} {every['decision']}")
    found["pages"] = every
    found["worst_median_ms"] = max(row["median_ms"] for row in every.values())
    found["worst_p95_ms"] = max(row["p95_ms"] for row in every.values())
    return found


if __name__ == "__main__":
    main()
