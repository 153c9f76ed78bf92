"""How full `difflens label` keeps a judge's server, and what that costs the client.

    python benchmarks/labeling.py [--quick] [--vllm URL --model NAME] [--rounds N]

Without --vllm: a stub in a process of its own answers after exactly t seconds; c requests in
flight can not do better than c/t a second. The whole path is timed as `difflens label` runs it:
evidence read from SQLite, prompts written, calls and explanations committed. With --vllm: the same
prompts go to a running server (`difflens judge serve`) by this path and by a bare asynchronous
client, in turns, each prompt once, and the tokens a second are compared. Start that server without
prefix caching (`args = ["--no-enable-prefix-caching"]`), or the first turn pays for the others'
prompts. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from sqlalchemy import func, select

from labeler.judge.batch import FailureLimit
from labeler.judge.latents import load_subject
from labeler.judge.openai import OpenAiJudge, Patience, endpoints_of, identity_of
from labeler.judge.prompts import explain_request
from labeler.labeling.explain import LabelConfig, explain_questions, label_latents
from labeler.store import migrate
from labeler.store.engine import open_engine, read_session, write_session
from labeler.store.latents import EvidenceRow, add_evidence, add_latents, get_or_create_crosscoder
from labeler.store.runs import begin_run
from labeler.store.schema import JudgeCall
from labeler.study.judge_config import JudgeSection

TEXT = (
    "the of and to in is that for it as was with on be at by this had not are but from or have an "
    "they which one you were all her she there would their we him been has when who will no more "
    "if out so up said what its about than into them can only other time new some could these two"
)
WORDS = tuple(TEXT.split())
WINDOWS, TOKENS = 24, 32
"""Windows of the explain half of a latent, and tokens of each, as the collect stage writes them."""
LATENCY_S = 1.0


@dataclass(frozen=True)
class Measured:
    """One batch."""

    concurrency: int
    n_requests: int
    seconds: float
    cpu_s: float
    peak_in_flight: int

    @property
    def per_second(self) -> float:
        """Requests a second."""
        return self.n_requests / self.seconds

    def share_of_best(self, latency_s: float) -> float:
        """Share of c/t, for the whole batch, its first and last seconds included."""
        return self.per_second * latency_s / self.concurrency

    @property
    def cpu_ms(self) -> float:
        """Client CPU a request, in milliseconds."""
        return 1000 * self.cpu_s / self.n_requests


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.vllm is not None:
            figures = against_vllm(Path(folder), arguments)
        else:
            figures = against_stub(Path(folder), arguments.quick)
    print(json.dumps(figures))


def against_stub(folder: Path, quick: bool) -> dict[str, Any]:
    """Batches of many concurrencies against the stub."""
    plan = ((16, 10), (64, 8)) if quick else ((16, 30), (64, 30), (256, 30))
    template = folder / "template.db"
    write_study(template, max(c * rounds for c, rounds in plan))
    port = free_port()
    figures: dict[str, Any] = {
        "latency_s": LATENCY_S,
        "prompt_cpu_ms_per_request": round(prompt_cpu_ms(template), 2),
        "batches": [],
    }
    with stub(port, LATENCY_S):
        for concurrency, rounds in plan:
            database = folder / f"study-{concurrency}.db"
            shutil.copy(template, database)
            measured = label(database, port, concurrency, concurrency * rounds)
            figures["batches"].append(
                {
                    "concurrency": concurrency,
                    "requests": measured.n_requests,
                    "seconds": round(measured.seconds, 2),
                    "requests_per_s": round(measured.per_second, 1),
                    "share_of_best": round(measured.share_of_best(LATENCY_S), 4),
                    "client_cpu_ms_per_request": round(measured.cpu_ms, 2),
                    "peak_in_flight": measured.peak_in_flight,
                }
            )
            print(
                f"c={concurrency:>3}: {measured.per_second:6.1f} requests/s of "
                f"{concurrency / LATENCY_S:.0f}, {measured.share_of_best(LATENCY_S):.1%}, "
                f"{measured.cpu_ms:.2f} ms of CPU a request, "
                f"{measured.peak_in_flight} in flight at most"
            )
    return figures


def label(database: Path, port: int, concurrency: int, n_latents: int) -> Measured:
    """Label the first latents of a study and time it."""
    engine = open_engine(f"sqlite:///{database}")
    section = JudgeSection(
        kind="openai", base_url=f"http://127.0.0.1:{port}/v1", model="m", concurrency=concurrency
    )
    judge = OpenAiJudge.from_section(section)
    with write_session(engine) as session:
        run_id = begin_run(session, "label", {})
    _stats(port)
    started, cpu = time.perf_counter(), time.process_time()
    summary = label_latents(engine, judge, run_id, range(1, n_latents + 1))
    seconds, used = time.perf_counter() - started, time.process_time() - cpu
    assert summary.n_explained == n_latents, summary
    with read_session(engine) as session:
        stored = session.execute(select(func.count(JudgeCall.id))).scalar_one()
    assert stored == n_latents
    engine.dispose()
    return Measured(concurrency, n_latents, seconds, used, _stats(port)["peak"])


def prompt_cpu_ms(database: Path, n_latents: int = 512) -> float:
    """The part of the CPU that reads evidence and writes prompts, in milliseconds a request."""
    engine = open_engine(f"sqlite:///{database}")
    started = time.process_time()
    made = sum(1 for _ in explain_questions(engine, range(1, n_latents + 1), 3))
    used = time.process_time() - started
    engine.dispose()
    return 1000 * used / made


def _stats(port: int) -> dict[str, int]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats") as answer:
        found: dict[str, int] = json.load(answer)
    return found


def write_study(database: Path, n_latents: int) -> None:
    """A study of latents with evidence of random words, no two alike."""
    url = f"sqlite:///{database}"
    migrate.upgrade(url)
    engine = open_engine(url)
    draw = random.Random(0)
    with write_session(engine) as session:
        run_id = begin_run(session, "isolate", {})
        crosscoder = get_or_create_crosscoder(session, "cc", sha256="ab" * 32)
        ids = add_latents(session, crosscoder.id, [{"latent_index": i} for i in range(n_latents)])
        for first in range(0, n_latents, 256):
            part = [ids[index] for index in range(first, min(first + 256, n_latents))]
            add_evidence(session, run_id, [row for one in part for row in _windows(one, draw)])
    assert sorted(ids.values()) == list(range(1, n_latents + 1))
    engine.dispose()


def _windows(latent_id: int, draw: random.Random) -> Iterator[EvidenceRow]:
    for number in range(WINDOWS):
        at = draw.randrange(TOKENS)
        kind = "top" if number < 12 else "quantile" if number < 20 else "negative"
        fires = kind != "negative"
        yield EvidenceRow(
            latent_id=latent_id,
            kind=kind,
            split="explain",
            document_id=f"d{latent_id}-{number}",
            start=0,
            tokens=[" " + draw.choice(WORDS) for _ in range(TOKENS)],
            token_ids=range(TOKENS),
            roles=["assistant"] * TOKENS,
            activations=[2.5 if fires and abs(i - at) < 2 else 0.0 for i in range(TOKENS)],
            quantile=number % 4 if kind == "quantile" else None,
        )


@contextmanager
def stub(port: int, latency_s: float) -> Iterator[None]:
    """The stub server in a process of its own."""
    script = Path(__file__).with_name("chat_stub.py")
    process = subprocess.Popen([sys.executable, str(script), str(port), str(latency_s)])
    try:
        while True:
            try:
                _stats(port)
                break
            except OSError:
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


def against_vllm(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """This path and a bare client on the same prompts, in turns."""
    n_latents = 4 if arguments.quick else arguments.latents
    template = folder / "template.db"
    write_study(template, n_latents)
    section = JudgeSection(
        kind="openai",
        base_url=arguments.vllm,
        model=arguments.model,
        concurrency=arguments.concurrency,
        max_tokens=arguments.max_tokens,
        timeout_s=600,
    )
    bodies = bodies_of(template, section, n_latents)
    asyncio.run(bare(section, bodies[:1]))
    ours, theirs = [], []
    for number in range(arguments.rounds):
        database = folder / f"round-{number}.db"
        shutil.copy(template, database)
        turns = [(theirs, lambda: asyncio.run(bare(section, bodies)))]
        turns.append((ours, lambda path=database: labelled_rate(path, section, n_latents)))
        for rates, turn in turns if number % 2 else reversed(turns):
            rates.append(turn())
            who = "difflens" if rates is ours else "bare client"
            print(f"round {number}: {who} {rates[-1]:.1f} tokens/s")
    return {
        "latents": n_latents,
        "concurrency": arguments.concurrency,
        "rounds": arguments.rounds,
        "difflens_tokens_per_s": round(statistics.median(ours), 1),
        "bare_client_tokens_per_s": round(statistics.median(theirs), 1),
        "share": round(statistics.median(ours) / statistics.median(theirs), 4),
    }


def bodies_of(database: Path, section: JudgeSection, n_latents: int) -> list[dict[str, Any]]:
    """The requests that labelling these latents sends."""
    engine = open_engine(f"sqlite:///{database}")
    bodies = []
    for latent_id in range(1, n_latents + 1):
        with read_session(engine) as session:
            request = explain_request(load_subject(session, latent_id))
        schema = {"name": "explain", "schema": dict(request.schema), "strict": True}
        bodies.append(
            {
                "model": section.model,
                "messages": [
                    {"role": one.role, "content": one.content} for one in request.messages
                ],
                "response_format": {"type": "json_schema", "json_schema": schema},
                "temperature": section.temperature,
                "max_tokens": section.max_tokens,
            }
        )
    engine.dispose()
    return bodies


async def bare(section: JudgeSection, bodies: Sequence[dict[str, Any]]) -> float:
    """Tokens a second of a client that does nothing but send and read."""
    left = iter(bodies)
    tokens = 0

    async def work(client: aiohttp.ClientSession) -> None:
        nonlocal tokens
        for body in left:
            async with client.post(f"{section.base_url}/chat/completions", json=body) as answer:
                tokens += (await answer.json())["usage"]["total_tokens"]

    started = time.perf_counter()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as client:
        await asyncio.gather(*(work(client) for _ in range(section.concurrency)))
    return tokens / (time.perf_counter() - started)


def labelled_rate(database: Path, section: JudgeSection, n_latents: int) -> float:
    """Tokens a second of labelling; an answer that was cut off is not asked for again."""
    engine = open_engine(f"sqlite:///{database}")
    with write_session(engine) as session:
        run_id = begin_run(session, "label", {})
    once = Patience(timeout_s=section.timeout_s, max_answers=1)
    judge = OpenAiJudge(identity_of(section), endpoints_of(section), once)
    config = LabelConfig(failure_limit=FailureLimit(share=1.0))
    started = time.perf_counter()
    label_latents(engine, judge, run_id, range(1, n_latents + 1), config)
    seconds = time.perf_counter() - started
    total = func.sum(JudgeCall.prompt_tokens + JudgeCall.completion_tokens)
    with read_session(engine) as session:
        n_calls, tokens = session.execute(select(func.count(JudgeCall.id), total)).one()
    assert n_calls == n_latents, n_calls
    engine.dispose()
    return float(tokens) / seconds


def free_port() -> int:
    """A port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--vllm", metavar="URL", help="a running server, e.g. http://127.0.0.1/v1")
    parser.add_argument("--model", default="judge", help="the model's name at that server")
    parser.add_argument("--latents", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=32)
    return parser.parse_args()


if __name__ == "__main__":
    main()
