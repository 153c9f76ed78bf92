"""Writes latents.csv: one stand-in row per latent behind the percentages of arXiv 2509.18792.

The paper prints percentages, not counts. These counts are the smallest that give every printed
percentage to its decimal with 89 of 92 and 112 of 113 latents labelled.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

COMPARISON = "simpo-vs-it"


@dataclass(frozen=True)
class Count:
    """Latents of one category on the two sides; an empty category is not labelled."""

    category: str
    target: int
    reference: int


COUNTS = (
    Count("safety", 19, 18),
    Count("multilingual", 8, 7),
    Count("instruction-following", 2, 1),
    Count("factual-verification", 3, 2),
    Count("hallucination", 1, 4),
    Count("self-reference", 4, 9),
    Count("query-classification", 1, 2),
    Count("structured-output", 1, 2),
    Count("code-generation", 4, 7),
    # The rest of the parent `technical`, whose 21 and 32 are printed, without its other children.
    Count("technical-explanation", 17, 25),
    # What no printed percentage speaks of.
    Count("none", 29, 35),
    Count("uninterpretable", 2, 1),
    Count("", 1, 0),
)


def rows() -> Iterator[list[str]]:
    """The header, then 92 rows of the target side and 113 of the reference side."""
    yield ["comparison", "side", "latent_index", "explanation", "category"]
    for side in ("target", "reference"):
        slugs = [count.category for count in COUNTS for _ in range(getattr(count, side))]
        for index, slug in enumerate(slugs):
            explanation = f"stand-in for a latent counted as {slug}" if slug else ""
            yield [COMPARISON, side, str(index), explanation, slug]


def write(file: TextIO) -> None:
    """Write the rows as CSV."""
    csv.writer(file, lineterminator="\n").writerows(rows())


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("latents.csv")
    with path.open("w", encoding="utf-8", newline="") as sink:
        write(sink)
