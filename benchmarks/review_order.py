"""How many reviews the order of the review queue saves: the head's accuracy, review by review.

    python benchmarks/review_order.py [--seeds N] [--quick] [--minilm FOLDER]

Hand-labelled latents stand in for reviewed ones. For each seed, a part of the package's fitting set
is the queue; the rest of it, with the separate test set, is the blind stratum, which is never
taught. The head starts from the taxonomy's definitions and prototypes alone and is fitted again
after each batch of reviews. The queue's order takes the next batch by doubt and distance; a random
order takes any. `share` is the number of reviews with which the queue's order reaches the accuracy
of so many reviews in random order (the last of LEVELS), divided by their number.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from evidence_judge import seed_options

from labeler.embedding.base import CachedEmbedder
from labeler.embedding.embedders import MiniLmEmbedder, find_minilm
from labeler.judge.base import CategoryOption
from labeler.judge.evidence_statistics import LanguageIdentifier, Reading, read
from labeler.judge.few_shot import build_head_finder
from labeler.judge.labelled_evidence import NONE, LabelledLatent, fitting_set, read_labelled
from labeler.judge.latent_features import FeatureReader, foreign_share
from labeler.judge.nearest_category import CategoryFinder, Finding
from taxonomy.teaching_order import teaching_order

TEST = Path(__file__).parent / "data" / "labelled_test.jsonl"
QUEUED = 200
BATCH = 20
LEVELS = (60, 80, 100)
"""Numbers of reviews in random order whose accuracy is to be reached; the last one leads."""
RANDOM_ORDERS = 2
"""Random orders per seed, of which the mean accuracy counts."""
QUICK_LEVELS = (20, 40)
Find = Callable[[LabelledLatent], Finding]


@dataclass(frozen=True)
class Bench:
    """What every fit needs."""

    reader: FeatureReader
    nearest: CategoryFinder
    options: Sequence[CategoryOption]
    readings: dict[str, Reading]

    def taught(self, reviewed: Sequence[LabelledLatent]) -> Find:
        """The finder that has learned from reviewed latents."""
        head = build_head_finder(self.options, self.reader, self.nearest, (), reviewed=reviewed)

        def find(latent: LabelledLatent) -> Finding:
            reading = self.readings[latent.name]
            if head is not None:
                return head.find(reading)
            examples = self.reader.examples(reading)
            vectors, foreign = self.vectors(latent), foreign_share(examples)
            return Finding(
                self.nearest.find(vectors, foreign), self.nearest.doubt(vectors, foreign)
            )

        return find

    def vectors(self, latent: LabelledLatent) -> np.ndarray:
        """Vectors (s, e) of the sentences in which a latent fires."""
        return np.stack([one.sentence for one in self.reader.examples(self.readings[latent.name])])


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    folder = arguments.minilm or find_minilm()
    if folder is None:
        sys.exit("review_order: no sentence model; `difflens fetch` it or give --minilm FOLDER")
    fitting, test = fitting_set(), read_labelled(TEST)
    bench = make_bench(folder, (*fitting, *test))
    levels = QUICK_LEVELS if arguments.quick else LEVELS
    sizes = list(range(0, max(levels) + 1, BATCH))
    curves = []
    print("| seed | order | " + " | ".join(f"{size}" for size in sizes) + " |")
    print("|---|---|" + "---|" * len(sizes))
    for seed in range(arguments.seeds):
        random = np.random.default_rng(seed)
        order = random.permutation(len(fitting))
        queue = [fitting[row] for row in order[:QUEUED]]
        blind = [*(fitting[row] for row in order[QUEUED:]), *test]
        chosen = in_queue_order(bench, queue, blind, sizes)
        shuffled = [
            in_random_order(bench, queue, blind, levels, random) for _ in range(RANDOM_ORDERS)
        ]
        at_random = dict(zip(levels, np.mean(shuffled, axis=0), strict=True))
        curves.append((at_random, np.array(chosen)))
        for name, curve in (
            ("random", at_random),
            ("queue", dict(zip(sizes, chosen, strict=True))),
        ):
            cells = " | ".join(f"{curve[size]:.3f}" if size in curve else "" for size in sizes)
            print(f"| {seed} | {name} | {cells} |", flush=True)
    print(json.dumps(figures(sizes, levels, curves)))


def make_bench(folder: Path, latents: Sequence[LabelledLatent]) -> Bench:
    """Embed the categories and all latents once."""
    embedder = CachedEmbedder(MiniLmEmbedder(folder))
    reader = FeatureReader(embedder, LanguageIdentifier())
    readings = {latent.name: read(latent.subject) for latent in latents}
    reader.embed_all(list(readings.values()))
    options = seed_options()
    return Bench(reader, CategoryFinder.build(options, embedder), options, readings)


def in_queue_order(
    bench: Bench,
    queue: Sequence[LabelledLatent],
    blind: Sequence[LabelledLatent],
    sizes: Sequence[int],
) -> list[float]:
    """Accuracy on the blind stratum after each number of reviews, the next ones by the product."""
    reviewed: list[LabelledLatent] = []
    find, curve = bench.taught(()), []
    for size in sizes:
        left = [latent for latent in queue if latent not in reviewed]
        if size:
            known = [bench.vectors(latent).mean(axis=0) for latent in reviewed]
            vectors = [bench.vectors(latent).mean(axis=0) for latent in left]
            doubts = [find(latent).doubt for latent in left]
            rows = teaching_order(doubts, vectors, known, size - len(reviewed))
            reviewed += [left[row] for row in rows]
        find = bench.taught(reviewed)
        curve.append(accuracy(find, blind))
    return curve


def in_random_order(
    bench: Bench,
    queue: Sequence[LabelledLatent],
    blind: Sequence[LabelledLatent],
    sizes: Sequence[int],
    random: np.random.Generator,
) -> list[float]:
    """Accuracy on the blind stratum after each number of reviews in a random order."""
    order = [queue[row] for row in random.permutation(len(queue))]
    return [accuracy(bench.taught(order[:size]), blind) for size in sizes]


def accuracy(find: Find, latents: Sequence[LabelledLatent]) -> float:
    """Share of latents whose first category is right, `none` included."""
    given = [(find(latent).found, latent.category) for latent in latents]
    right = [(found[0].slug if found else NONE) == category for found, category in given]
    return float(np.mean(right))


def reviews_needed(sizes: Sequence[int], curve: np.ndarray, wanted: float) -> float | None:
    """Number of reviews at which a curve first reaches an accuracy, by linear interpolation."""
    for row in range(1, len(sizes)):
        if curve[row] >= wanted:
            below = min(curve[row - 1], wanted)
            step = (wanted - below) / (curve[row] - below) if curve[row] > below else 0.0
            return float(sizes[row - 1] + step * (sizes[row] - sizes[row - 1]))
    return None


def figures(
    sizes: Sequence[int],
    levels: Sequence[int],
    curves: Sequence[tuple[Mapping[int, float], np.ndarray]],
) -> dict[str, object]:
    """The figures for machines; a seed that does not reach the accuracy counts as all reviews."""
    by_level = {}
    for level in levels:
        needed = [
            reviews_needed(sizes, chosen, at_random[level]) or float(sizes[-1])
            for at_random, chosen in curves
        ]
        by_level[str(level)] = {
            "reviews_chosen": round(median(needed), 1),
            "share": round(median(needed) / level, 3),
            "share_range": [round(min(needed) / level, 3), round(max(needed) / level, 3)],
            "accuracy_random": round(float(np.mean([each[level] for each, _ in curves])), 4),
        }
    return {
        "benchmark": "review_order",
        "seeds": len(curves),
        "reviews_random": levels[-1],
        **by_level[str(levels[-1])],
        "by_reviews_random": by_level,
        "sizes": list(sizes),
        "accuracy_chosen": [round(float(value), 4) for value in np.mean([c for _, c in curves], 0)],
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="40 reviews at most")
    parser.add_argument("--minilm", type=Path, help="folder of the sentence model")
    return parser.parse_args()


if __name__ == "__main__":
    main()
