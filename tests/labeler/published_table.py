"""The counts behind the published percentages, as a latents.csv."""

from __future__ import annotations

import csv
from pathlib import Path

COMPARISON = "simpo-vs-it"
TOTALS = {"target": 89, "reference": 112}
COUNTS = {
    "safety": (19, 18),
    "multilingual": (8, 7),
    "instruction-following": (2, 1),
    "factual-verification": (3, 2),
    "hallucination": (1, 4),
    "self-reference": (4, 9),
    "query-classification": (1, 2),
    "structured-output": (1, 2),
    "code-generation": (4, 7),
}
TECHNICAL = (21, 32)
"""A parent: code-generation counts towards it, and so does another child."""
PUBLISHED = {
    "safety": 32.8,
    "multilingual": 43.8,
    "instruction-following": 151.7,
    "factual-verification": 88.8,
    "hallucination": -68.5,
    "self-reference": -44.1,
    "query-classification": -37.1,
    "structured-output": -37.1,
    "code-generation": -28.1,
    "technical": -17.4,
}


def write_table(path: Path, other_technical: str) -> Path:
    """Write the table; `other_technical` is a second leaf under technical."""
    rows = [["comparison", "side", "latent_index", "explanation", "category"]]
    for position, side in enumerate(("target", "reference")):
        categories = [slug for slug, counts in COUNTS.items() for _ in range(counts[position])]
        rest = TECHNICAL[position] - COUNTS["code-generation"][position]
        categories += [other_technical] * rest
        categories += ["none"] * (TOTALS[side] - len(categories))
        rows += [
            [COMPARISON, side, str(index), f"fires on {category}", category]
            for index, category in enumerate(categories)
        ]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path
