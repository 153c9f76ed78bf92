"""How fast the review pages answer with 100,000 latents, 3 judge runs and 20,000 decisions.

    python benchmarks/review.py [--quick] [--database URL] [--requests N]

Every page is asked for over loopback from a running server, one request after another, each for
another latent, filter or page. Decisions are mixed in, so the queue in memory follows the database
between requests. The last line is one JSON object of milliseconds.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import uvicorn

sys.path.insert(0, str(Path(__file__).resolve().parent))

from big_study import QUICK, Size, build

from labeler.database_url import sqlite_file
from labeler.review.app import build_app, build_room
from labeler.store.engine import open_engine

HEADERS = {"sec-fetch-site": "same-origin"}
SLUGS = ("safety", "multilingual", "code-generation", "hallucination", "none", "technical")
WORDS = ("refusal", "french", "poem doctor", "code", "list heading")
ORDERS = ("uncertain", "disagreement", "random", "index")


@contextmanager
def running(url: str) -> Iterator[str]:
    """A server on a free port; yields its address."""
    engine = open_engine(url)
    app = build_app(build_room(engine, url, study="big", reviewer="reviewer-0"))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()
    engine.dispose()


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


def main() -> None:
    """Build the study unless one is named, measure every page, print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--database", help="a study that benchmarks/big_study.py built")
    parser.add_argument("--requests", type=int, default=60)
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else Size()
    with tempfile.TemporaryDirectory() as folder:
        url = arguments.database or f"sqlite:///{Path(folder) / 'big.db'}"
        begin = time.perf_counter()
        if arguments.database is None:
            build(url, size)
        built = time.perf_counter() - begin
        print(json.dumps(report(url, size, arguments.requests, built)))


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
