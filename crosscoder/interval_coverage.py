"""How often the interval of nu covers its true value, by simulation with fresh text.

A crosscoder trained on planted activations stays as it is; corpus after corpus of the same
dictionary and models is drawn and scaled. The true value is nu over one much larger corpus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from crosscoder.model import Crosscoder
from crosscoder.planted import PlantedConfig, generate_planted
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
