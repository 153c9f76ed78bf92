"""How often the 95% interval of nu covers its true value.

    python benchmarks/interval_coverage.py [--quick]

Trains one crosscoder on planted activations, then draws fresh text of the same dictionary many
times, scales all latents on each, and counts how often the interval holds the true value: nu over
a corpus eighty times as large. Prints a Markdown table and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from planted_data import PlantedConfig, generate_planted
from planted_trial import TrialConfig, run_trial

from crosscoder.checkpoints import load_crosscoder
from crosscoder.model import Crosscoder
from crosscoder.scaling import PairScaling, latent_scaling

POPULATION_SEED = 1_000_000
"""Text seed of the corpus that stands for the population; corpora count up from 1."""
EDGES = (8, 20, 40, 80, 1 << 30)
"""Documents in which a latent is active, from one edge up to the next."""


@dataclass(frozen=True)
class CoverageRow:
    """Intervals of all latents and corpora with so many active documents."""

    ratio: str
    """nu_error or nu_reconstruction."""
    min_documents: int
    max_documents: int
    """Exclusive."""
    n_intervals: int
    coverage: float
    """Share of them that hold the true value; nominal 0.95."""
    missed_low: float
    """Share that lie wholly above the true value."""
    missed_high: float
    """Share that lie wholly below it."""


def interval_coverage(
    crosscoder: Crosscoder,
    config: PlantedConfig,
    n_corpora: int,
    n_documents: int,
    population_documents: int,
    n_blocks: int = 20,
) -> tuple[CoverageRow, ...]:
    """Coverage in the pair (second model, first model), by ratio and by documents."""
    reference, target = config.model_names[:2]

    def scaled(text_seed: int, size: int) -> PairScaling:
        drawn = generate_planted(replace(config, text_seed=text_seed, n_documents=size))
        return latent_scaling(crosscoder, drawn.store, n_blocks).pair(target, reference)

    population = scaled(POPULATION_SEED, population_documents)
    pairs = [scaled(seed, n_documents) for seed in range(1, n_corpora + 1)]
    return tuple(
        _row(population, pairs, ratio, low, high)
        for ratio in ("nu_error", "nu_reconstruction")
        for low, high in pairwise(EDGES)
    )


def _row(
    population: PairScaling, pairs: Sequence[PairScaling], ratio: str, low: int, high: int
) -> CoverageRow:
    truth: NDArray[np.float64] = getattr(population, ratio)
    above, below, n = 0, 0, 0
    for pair in pairs:
        ends = getattr(pair, f"{ratio}_low"), getattr(pair, f"{ratio}_high")
        counted = (pair.n_documents >= low) & (pair.n_documents < high)
        counted &= np.isfinite(ends[0] + ends[1] + truth)
        n += int(counted.sum())
        above += int((truth < ends[0])[counted].sum())
        below += int((truth > ends[1])[counted].sum())
    return CoverageRow(
        ratio=ratio,
        min_documents=low,
        max_documents=high,
        n_intervals=n,
        coverage=1 - (above + below) / n if n else float("nan"),
        missed_low=above / n if n else float("nan"),
        missed_high=below / n if n else float("nan"),
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="30 corpora instead of 300")
    quick = parser.parse_args().quick
    started = time.perf_counter()
    config = TrialConfig()
    with tempfile.TemporaryDirectory() as folder:
        run_trial(config, Path(folder))
        crosscoder = load_crosscoder(Path(folder))
    rows = interval_coverage(
        crosscoder,
        config.planted,
        n_corpora=30 if quick else 300,
        n_documents=150,
        population_documents=12000,
    )
    print("| ratio | documents | intervals | coverage | true value below | above |")
    print("|---" * 6 + "|")
    for row in rows:
        documents = f"{row.min_documents} to {row.max_documents - 1}"
        if row.max_documents > 1 << 20:
            documents = f"{row.min_documents} and more"
        print(
            f"| {row.ratio} | {documents} | {row.n_intervals} | {row.coverage:.3f} | "
            f"{row.missed_low:.3f} | {row.missed_high:.3f} |"
        )
    seconds = round(time.perf_counter() - started, 1)
    print(json.dumps({"seconds": seconds, "quick": quick, "rows": [asdict(row) for row in rows]}))


if __name__ == "__main__":
    main()
