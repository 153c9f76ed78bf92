"""How often the evidence judge finds the category of hand-labelled evidence.

    python benchmarks/evidence_judge.py [--quick] [--minilm FOLDER] [--data FILE] [--errors]

Prints a Markdown table (recall and precision per category, accuracy with its Wilson interval) for
the sentence model, for TF-IDF and for the majority class, all over the full seed taxonomy, and as
its last line one JSON object. The judge is calibrated on the taxonomy alone; nothing is tuned here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from labeler.embedding.base import Embedder
from labeler.embedding.embedders import MiniLmEmbedder, TfidfEmbedder, find_minilm
from labeler.judge.base import CategoryOption
from labeler.judge.embedding_judge import EvidenceJudge
from labeler.judge.labelled_evidence import LabelledLatent, read_labelled
from labeler.judge.prompts import categorize_request
from taxonomy.counts import Side
from taxonomy.intervals import wilson_interval
from taxonomy.tree import seed_taxonomy

DATA = Path(__file__).parent / "data" / "labelled_evidence.jsonl"
QUICK_PER_CATEGORY = 3


@dataclass(frozen=True)
class Scored:
    """What one judge said of all latents."""

    judge: str
    given: tuple[str, ...]
    seconds: float


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    rows = read_labelled(arguments.data)
    if arguments.quick:
        rows = _first_of_each(rows, QUICK_PER_CATEGORY)
    options = seed_options()
    texts = [text for option in options for text in (option.description, *option.prototypes)]
    results = [majority(rows)]
    folder = arguments.minilm or find_minilm()
    if folder is not None:
        results.insert(0, judged(rows, options, MiniLmEmbedder(folder)))
    else:
        print("no sentence model found: evidence-minilm is left out", file=sys.stderr)
    results.insert(-1, judged(rows, options, TfidfEmbedder(texts)))
    print(table(rows, results))
    if arguments.errors:
        print(confusions(rows, results[0]))
    print(json.dumps(figures(rows, results)))


def seed_options() -> tuple[CategoryOption, ...]:
    """Leaves of the seed taxonomy, as a judge is offered them."""
    return tuple(
        CategoryOption(
            slug=leaf.slug,
            name=leaf.name,
            parent=leaf.parent,
            definition=leaf.definition,
            include_when=leaf.include_when,
            exclude_when=leaf.exclude_when,
            prototypes=leaf.prototypes,
            behaviour=leaf.behaviour,
        )
        for leaf in seed_taxonomy().leaves()
    )


def judged(
    rows: Sequence[LabelledLatent], options: Sequence[CategoryOption], embedder: Embedder
) -> Scored:
    """Ask the evidence judge for the primary category of each latent, or its other outcome."""
    judge = EvidenceJudge(embedder)

    async def ask_all() -> list[str]:
        answers = []
        for row in rows:
            reply = await judge.ask(categorize_request(row.subject, "", options))
            parsed = reply.parsed or {"outcome": "error", "categories": []}
            chosen = parsed["categories"]
            answers.append(chosen[0]["category"] if chosen else parsed["outcome"])
        return answers

    started = time.perf_counter()
    given = asyncio.run(ask_all())
    return Scored(judge.identity.name, tuple(given), time.perf_counter() - started)


def majority(rows: Sequence[LabelledLatent]) -> Scored:
    """Always the most frequent category (the first in the alphabet of several)."""
    counts = Counter(row.category for row in rows)
    most = min(counts, key=lambda category: (-counts[category], category))
    return Scored("majority", (most,) * len(rows), 0.0)


def table(rows: Sequence[LabelledLatent], results: Sequence[Scored]) -> str:
    """A Markdown table: recall / precision of each category and judge, then the accuracy."""
    names = [result.judge for result in results]
    heads = " | ".join(f"{name} recall / precision" for name in names)
    lines = [
        f"| category | latents | {heads} |",
        "|---|---|" + "---|" * len(names),
    ]
    for category in sorted({row.category for row in rows}):
        cells = [_recall_and_precision(rows, result, category) for result in results]
        n = sum(row.category == category for row in rows)
        lines.append(f"| {category} | {n} | " + " | ".join(cells) + " |")
    cells = [_accuracy_cell(rows, result) for result in results]
    lines.append(f"| **accuracy** | {len(rows)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def confusions(rows: Sequence[LabelledLatent], result: Scored) -> str:
    """The latents that a judge got wrong."""
    wrong = [
        f"- {row.name}: {given}"
        for row, given in zip(rows, result.given, strict=True)
        if given != row.category
    ]
    return "\n".join([f"\n{result.judge}, wrong:", *wrong, ""])


def figures(rows: Sequence[LabelledLatent], results: Sequence[Scored]) -> dict[str, object]:
    """The figures for machines."""
    return {
        "benchmark": "evidence_judge",
        "n": len(rows),
        "judges": {
            result.judge: {
                "accuracy": hits(rows, result) / len(rows),
                "recall": {
                    category: hits(rows, result, category)
                    / sum(row.category == category for row in rows)
                    for category in sorted({row.category for row in rows})
                },
                "seconds": round(result.seconds, 3),
            }
            for result in results
        },
    }


def hits(rows: Sequence[LabelledLatent], result: Scored, category: str | None = None) -> int:
    """How many latents (of a category) a judge got right."""
    return sum(
        row.category == given and category in (None, row.category)
        for row, given in zip(rows, result.given, strict=True)
    )


def _recall_and_precision(rows: Sequence[LabelledLatent], result: Scored, category: str) -> str:
    right = hits(rows, result, category)
    n = sum(row.category == category for row in rows)
    n_given = result.given.count(category)
    return f"{right}/{n} / {right}/{n_given}"


def _accuracy_cell(rows: Sequence[LabelledLatent], result: Scored) -> str:
    right = hits(rows, result)
    bounds = wilson_interval(Side(right, len(rows)))
    shown = f" [{bounds.low:.0%}, {bounds.high:.0%}]" if bounds is not None else ""
    return f"{right}/{len(rows)} = {right / len(rows):.0%}{shown}"


def _first_of_each(rows: Sequence[LabelledLatent], n: int) -> list[LabelledLatent]:
    seen: Counter[str] = Counter()
    kept = []
    for row in rows:
        seen[row.category] += 1
        if seen[row.category] <= n:
            kept.append(row)
    return kept


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="three latents of each category")
    parser.add_argument("--minilm", type=Path, help="folder of the sentence model")
    parser.add_argument("--data", type=Path, default=DATA, help="labelled evidence, JSONL")
    parser.add_argument("--errors", action="store_true", help="list what the first judge got wrong")
    return parser.parse_args()


if __name__ == "__main__":
    main()
