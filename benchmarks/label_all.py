"""CPU time of `label` and `categorize` with the evidence judge, for many latents of real text.

    python benchmarks/label_all.py [--latents N] [--minilm FOLDER] [--keep FILE]

Each latent fires on one word of the demo's corpus: its evidence are windows of the documents with
that word, in the numbers that the collect stage writes. Vectors are computed, none is read from
the cache of earlier runs. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from sqlalchemy import Engine, insert

from labeler.embedding.base import CachedEmbedder, DiskCachedEmbedder
from labeler.embedding.embedders import MiniLmEmbedder, find_minilm
from labeler.judge.embedding_judge import EvidenceJudge
from labeler.labeling.categorize import categorize
from labeler.labeling.explain import label_latents
from labeler.store import migrate
from labeler.store.engine import open_engine, write_session
from labeler.store.latents import (
    EvidenceRow,
    add_evidence,
    add_latents,
    ensure_comparison,
    get_or_create_crosscoder,
)
from labeler.store.runs import begin_run
from labeler.store.schema import LatentSet, LatentSetMember
from labeler.store.taxonomies import ensure_taxonomy_version
from taxonomy.tree import seed_taxonomy

TOP, QUANTILE, NEGATIVE = 12, 8, 8
"""Windows of a latent, as the collect stage writes them."""
WINDOW = 32
_PIECE = re.compile(r"\s*[^\W_]{1,6}|[^\W_]{1,6}|\s*[^\w\s]|\s*_|\s+")


@dataclass(frozen=True)
class Document:
    """A text as tokens with their roles."""

    name: str
    tokens: tuple[str, ...]
    roles: tuple[str, ...]


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    folder = arguments.minilm or find_minilm()
    with tempfile.TemporaryDirectory() as scratch:
        database = arguments.keep or Path(scratch) / "study.db"
        figures = measured(database, Path(scratch), folder, arguments.latents)
    print(json.dumps(figures))


def measured(database: Path, scratch: Path, folder: Path, n_latents: int) -> dict[str, float]:
    """CPU seconds by stage."""
    migrate.upgrade(f"sqlite:///{database}")
    engine = open_engine(f"sqlite:///{database}")
    latents, comparison_id, seconds = write_study(engine, n_latents)
    figures: dict[str, float] = {"latents": n_latents, "evidence_cpu_s": round(seconds, 1)}
    cache = scratch / "vectors.sqlite"
    with write_session(engine) as session:
        version_id = ensure_taxonomy_version(session, seed_taxonomy()).id

    def embedder() -> CachedEmbedder:
        return CachedEmbedder(DiskCachedEmbedder(MiniLmEmbedder(folder), cache, "benchmark"))

    def label() -> object:
        return label_latents(engine, EvidenceJudge(embedder()), _run(engine, "label"), latents)

    def assign() -> object:
        vectors, run_id = embedder(), _run(engine, "categorize")
        judge = EvidenceJudge(vectors)
        return categorize(engine, judge, vectors, version_id, [comparison_id], run_id)

    for name, work in (("label", label), ("categorize", assign)):
        seconds = timed(work)
        figures[f"{name}_cpu_s"] = round(seconds, 1)
        print(f"{name}: {seconds:.1f} s of CPU, {1000 * seconds / n_latents:.1f} ms a latent")
    engine.dispose()
    return figures


def timed(work: Callable[[], object]) -> float:
    """CPU seconds of a call, user and system."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def write_study(engine: Engine, n_latents: int) -> tuple[list[int], int, float]:
    """Latents with evidence on both sides of one comparison, and the CPU seconds of the rows."""
    draw = random.Random(0)
    documents = read_documents()
    places = _places(documents)
    words = sorted(word for word, found in places.items() if len(found) >= TOP + QUANTILE)
    with write_session(engine) as session:
        run_id = begin_run(session, "isolate", {})
        crosscoder = get_or_create_crosscoder(session, "cc", sha256="ab" * 32)
        rows = [{"latent_index": index} for index in range(n_latents)]
        ids = sorted(add_latents(session, crosscoder.id, rows).values())
        sets = []
        for number, side in enumerate(("target", "reference")):
            latent_set = LatentSet(name=side, rule="ranked", rule_params={}, run_id=run_id)
            session.add(latent_set)
            session.flush()
            sets.append(latent_set.id)
            members = [
                {"latent_set_id": latent_set.id, "latent_id": one, "rank": rank, "score": 0.0}
                for rank, one in enumerate(ids[number::2], start=1)
            ]
            session.execute(insert(LatentSetMember), members)
        comparison = ensure_comparison(session, "demo", *sets)
        comparison_id = comparison.id
    seconds = 0.0
    for first in range(0, n_latents, 256):
        part = [
            row
            for latent_id in ids[first : first + 256]
            for row in _windows(latent_id, documents, places[draw.choice(words)], draw)
        ]
        begin = time.process_time()
        with write_session(engine) as session:
            add_evidence(session, run_id, part)
        seconds += time.process_time() - begin
    return ids, comparison_id, seconds


def read_documents() -> list[Document]:
    """The demo's corpus."""
    source = files("labeler.cli").joinpath("demo_assets", "corpus.jsonl")
    documents = []
    for line in source.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        tokens: list[str] = []
        roles: list[str] = []
        messages = row.get("messages") or [{"role": "plain", "content": row.get("text", "")}]
        for message in messages:
            pieces = _PIECE.findall(message["content"])
            tokens += ["<|im_start|>", message["role"], "\n", *pieces, "<|im_end|>", "\n"]
            roles += ["template"] * 3 + [message["role"]] * len(pieces) + ["template"] * 2
        documents.append(Document(row["id"], tuple(tokens), tuple(roles)))
    return documents


def _places(documents: list[Document]) -> dict[str, list[tuple[int, int]]]:
    """Word -> its first place in each document."""
    places: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for number, document in enumerate(documents):
        seen: set[str] = set()
        for at, (token, role) in enumerate(zip(document.tokens, document.roles, strict=True)):
            word = token.strip().lower()
            if role in ("user", "assistant", "plain") and word and word not in seen:
                seen.add(word)
                places[word].append((number, at))
    return places


def _windows(
    latent_id: int, documents: list[Document], found: list[tuple[int, int]], draw: random.Random
) -> Iterator[EvidenceRow]:
    firing = draw.sample(found, TOP + QUANTILE)
    other = [(draw.randrange(len(documents)), 0) for _ in range(NEGATIVE)]
    for number, (place, at) in enumerate([*firing, *other]):
        document = documents[place]
        start = max(0, min(at - WINDOW // 2, len(document.tokens) - WINDOW))
        shown = slice(start, start + WINDOW)
        kind = "top" if number < TOP else "quantile" if number < TOP + QUANTILE else "negative"
        tokens = document.tokens[shown]
        activations = [0.0] * len(tokens)
        if kind != "negative":
            activations[at - start] = draw.uniform(2, 4)
            for _ in range(4):
                near = min(max(0, at - start + draw.randint(-6, 6)), len(tokens) - 1)
                if document.roles[start + near] != "template":
                    activations[near] = max(activations[near], draw.uniform(0, 2))
        yield EvidenceRow(
            latent_id=latent_id,
            kind=kind,
            split="explain" if number % 2 else "score",
            document_id=document.name,
            start=start,
            tokens=tokens,
            token_ids=range(len(tokens)),
            roles=document.roles[shown],
            activations=activations,
            quantile=number % 4 if kind == "quantile" else None,
        )


def _run(engine: Engine, kind: str) -> int:
    with write_session(engine) as session:
        return begin_run(session, kind, {})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--latents", type=int, default=600)
    parser.add_argument("--minilm", type=Path, help="folder of the sentence model")
    parser.add_argument("--keep", type=Path, help="keep the database in this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
