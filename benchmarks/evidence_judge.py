"""How often the evidence judge finds the category of hand-labelled evidence.

    python benchmarks/evidence_judge.py [--quick] [--minilm FOLDER] [--data FILE] [--curve]
        [--errors] [--write-head]

Prints a Markdown table (recall and precision per category, accuracy with its Wilson interval) over
the full seed taxonomy, and as its last line one JSON object. The judges: `evidence-minilm` with the
head fitted on the package's labelled latents; `nearest-minilm`, by definitions and prototypes
alone; `evidence-tfidf`; and the majority class. `--curve` adds the head fitted on 1, 2, 3 and 5
labelled latents of each category. Nothing is fitted on the data that is read here. `--write-head`
writes the fit of the sentence model into the package, after its labelled latents, the seed taxonomy
or the method have changed. JSON, for each judge:

accuracy            share whose first category is the labelled one, or the second person's
lenient_accuracy    the same with the categories that either person would have accepted besides
recall              by category; headline_recall, none_recall: of the categories with a `behaviour`
                    line, and of `none` (None where there is none)
headline_precision  share of the labels of headline categories that are right, leniently
calibration_error   expected calibration error of assigned labels' confidences, ten bins
agreement           of the two people: equal, lenient, kappa, where two labelled
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crosscoder.errors import InputError
from labeler.embedding.base import CachedEmbedder, Embedder
from labeler.embedding.embedders import MiniLmEmbedder, TfidfEmbedder, find_minilm
from labeler.errors import UsageError
from labeler.judge import few_shot
from labeler.judge.base import CategoryOption
from labeler.judge.embedding_judge import EvidenceJudge
from labeler.judge.labelled_evidence import NONE, LabelledLatent, fitting_set, read_labelled
from labeler.judge.prompts import categorize_request
from labeler.labeling.judge_check import expected_calibration_error
from labeler.review.routes.numbers import cohen_kappa
from taxonomy.counts import Side
from taxonomy.intervals import wilson_interval
from taxonomy.tree import seed_taxonomy

DATA = Path(__file__).parent / "data" / "labelled_test.jsonl"
QUICK_PER_CATEGORY = 3
CURVE = (1, 2, 3, 5)
NO_ANSWER: dict[str, Any] = {"outcome": "error", "categories": []}


@dataclass(frozen=True)
class Scored:
    """What one judge said of all latents."""

    judge: str
    given: tuple[str, ...]
    confidences: tuple[float | None, ...]
    """None where no category was assigned."""
    seconds: float


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    if arguments.write_head:
        write_head(arguments.minilm or find_minilm())
        return
    rows = _rows(arguments.data)
    if arguments.quick:
        rows = first_of_each(rows, QUICK_PER_CATEGORY)
    options = seed_options()
    texts = [text for option in options for text in (option.description, *option.prototypes)]
    results = [majority(rows)]
    folder = arguments.minilm or find_minilm()
    if folder is not None:
        results[:0] = _of_minilm(rows, options, folder, arguments.curve)
    else:
        print("no sentence model found: evidence-minilm is left out", file=sys.stderr)
    results.insert(-1, judged(rows, options, TfidfEmbedder(texts)))
    print(table(rows, results))
    if arguments.errors:
        print(confusions(rows, results[0]))
    print(json.dumps(figures(rows, options, results)))


def _rows(path: Path) -> Sequence[LabelledLatent]:
    """The rows of the file; ends with one line where it has none, or a category of no taxonomy."""
    try:
        rows = read_labelled(path)
    except (InputError, UsageError) as error:
        sys.exit(str(error))
    known = {option.slug for option in seed_options()} | {NONE}
    unknown = sorted({row.category for row in rows} - known)
    if unknown or not rows:
        reason = f"no leaf of the seed taxonomy: {', '.join(unknown)}" if unknown else "no rows"
        sys.exit(f"{path}: {reason}")
    return rows


def write_head(folder: Path | None) -> None:
    """Fit the head of the sentence model and put it in the place of the package's."""
    if folder is None:
        sys.exit("no sentence model found; name its folder with --minilm")
    packaged = Path(few_shot.__file__).parent / few_shot.HEADS
    for path in packaged.glob("*.npz"):
        path.unlink()
    judge = EvidenceJudge(MiniLmEmbedder(folder), cache=packaged)
    judge.prepare(seed_options())
    print(*packaged.glob("*.npz"))


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
    rows: Sequence[LabelledLatent],
    options: Sequence[CategoryOption],
    embedder: Embedder,
    labelled: Sequence[LabelledLatent] | None = None,
    name: str | None = None,
) -> Scored:
    """Ask the evidence judge for the primary category of each latent, or its other outcome."""
    judge = EvidenceJudge(embedder, labelled)

    async def ask_all() -> list[dict[str, Any]]:
        requests = [categorize_request(row.subject, "", options) for row in rows]
        judge.read_ahead(requests)
        return [(await judge.ask(request)).parsed or NO_ANSWER for request in requests]

    started = time.perf_counter()
    answers = asyncio.run(ask_all())
    first = [answer["categories"][:1] for answer in answers]
    return Scored(
        name or judge.identity.name,
        tuple(
            one[0]["category"] if one else str(answer["outcome"])
            for one, answer in zip(first, answers, strict=True)
        ),
        tuple(float(one[0]["confidence"]) if one else None for one in first),
        time.perf_counter() - started,
    )


def _of_minilm(
    rows: Sequence[LabelledLatent], options: Sequence[CategoryOption], folder: Path, curve: bool
) -> list[Scored]:
    """The judge as it is, by definitions alone, and with fewer labelled latents."""
    embedder = CachedEmbedder(MiniLmEmbedder(folder))
    results = [
        judged(rows, options, embedder),
        judged(rows, options, embedder, labelled=(), name="nearest-minilm"),
    ]
    for n in CURVE if curve else ():
        few = first_of_each(fitting_set(), n)
        results.append(judged(rows, options, embedder, few, f"evidence-minilm-{n}"))
    return results


def majority(rows: Sequence[LabelledLatent]) -> Scored:
    """Always the most frequent category (the first in the alphabet of several)."""
    counts = Counter(row.category for row in rows)
    most = min(counts, key=lambda category: (-counts[category], category))
    return Scored("majority", (most,) * len(rows), (None,) * len(rows), 0.0)


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
        f"- {row.name}: {given}, not {row.category}"
        for row, given in zip(rows, result.given, strict=True)
        if not is_right(row, given)
    ]
    return "\n".join([f"\n{result.judge}, wrong:", *wrong, ""])


def figures(
    rows: Sequence[LabelledLatent], options: Sequence[CategoryOption], results: Sequence[Scored]
) -> dict[str, object]:
    """The figures for machines."""
    headline = {option.slug for option in options if option.behaviour}
    return {
        "benchmark": "evidence_judge",
        "n": len(rows),
        "agreement": agreement(rows),
        "judges": {result.judge: judge_figures(rows, result, headline) for result in results},
    }


def judge_figures(
    rows: Sequence[LabelledLatent], result: Scored, headline: set[str]
) -> dict[str, object]:
    """Accuracy, recalls, precision and calibration of one judge."""
    pairs = list(zip(rows, result.given, strict=True))

    def share(right: Sequence[bool]) -> float | None:
        return sum(right) / len(right) if right else None

    def recall(categories: Set[str]) -> float | None:
        return share([is_right(row, given) for row, given in pairs if row.category in categories])

    return {
        "accuracy": share([is_right(row, given) for row, given in pairs]),
        "lenient_accuracy": share([is_right(row, given, lenient=True) for row, given in pairs]),
        "recall": {
            category: recall({category}) for category in sorted({row.category for row in rows})
        },
        "headline_recall": recall(headline),
        "headline_precision": share(
            [is_right(row, given, lenient=True) for row, given in pairs if given in headline]
        ),
        "none_recall": recall({NONE}),
        "calibration_error": calibration_error(rows, result),
        "seconds": round(result.seconds, 3),
    }


def calibration_error(rows: Sequence[LabelledLatent], result: Scored) -> float | None:
    """Expected calibration error of assigned labels' confidences; None without any."""
    answers = [
        (confidence, is_right(row, given))
        for row, given, confidence in zip(rows, result.given, result.confidences, strict=True)
        if confidence is not None
    ]
    return expected_calibration_error(answers)


def agreement(rows: Sequence[LabelledLatent]) -> dict[str, float | None] | None:
    """How far two people agree; None unless all rows were labelled twice."""
    pairs = [(row.category, row.second) for row in rows if row.second is not None]
    if len(pairs) < len(rows) or not pairs:
        return None
    slugs = sorted({slug for pair in pairs for slug in pair})
    counts = np.zeros((len(slugs), len(slugs)), dtype=np.int64)
    for first, second in pairs:
        counts[slugs.index(first), slugs.index(second)] += 1
    return {"equal": float(np.trace(counts) / counts.sum()), "kappa": cohen_kappa(counts)}


def is_right(row: LabelledLatent, given: str, lenient: bool = False) -> bool:
    """Whether a label is one of the two people's; leniently, also what either would accept."""
    return given in (row.category, row.second) or (lenient and given in row.also)


def hits(rows: Sequence[LabelledLatent], result: Scored, category: str | None = None) -> int:
    """How many latents (of a category) a judge got right."""
    return sum(
        is_right(row, given) and category in (None, row.category)
        for row, given in zip(rows, result.given, strict=True)
    )


def _recall_and_precision(rows: Sequence[LabelledLatent], result: Scored, category: str) -> str:
    right = hits(rows, result, category)
    n = sum(row.category == category for row in rows)
    n_given = sum(given == category for given in result.given)
    return f"{right}/{n} / {right}/{n_given}"


def _accuracy_cell(rows: Sequence[LabelledLatent], result: Scored) -> str:
    right = hits(rows, result)
    bounds = wilson_interval(Side(right, len(rows)))
    shown = f" [{bounds.low:.0%}, {bounds.high:.0%}]" if bounds is not None else ""
    return f"{right}/{len(rows)} = {right / len(rows):.0%}{shown}"


def first_of_each(rows: Sequence[LabelledLatent], n: int) -> list[LabelledLatent]:
    """The first `n` latents of each category."""
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
    parser.add_argument("--curve", action="store_true", help="fit on fewer labelled latents, too")
    parser.add_argument("--write-head", action="store_true", help="fit the package's head again")
    parser.add_argument("--errors", action="store_true", help="list what the first judge got wrong")
    return parser.parse_args()


if __name__ == "__main__":
    main()
