"""How well planted rank-1 edits are told from latents that do nothing.

    python benchmarks/effects.py [--quick]

Tiny random models of two architectures, one with soft caps. Each pair has four edits below the
hook; sets of two latents are tested: one for each edit, and sets of decoys that claim differences
which are not there. A set counts as found where the Benjamini-Hochberg q of its attribution against
200 controls is at most 0.05. The last line is JSON: `power` and `false_discovery_rate` with the
number of edits, the gap of an identity pair, and the mean correlation over the sets of a pair of
first-order and patched shares.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass

import numpy as np
import torch
from planted_edits import STRENGTHS, EditTrial, make_trial, planted
from scipy import stats

from crosscoder.config import EffectSettings
from crosscoder.effects import PatchPlan, measure_effects
from crosscoder.patching import LatentGroup

ARCHITECTURES = ("llama", "gemma2")
N_DECOY_SETS = 12
LEVEL = 0.05


@dataclass(frozen=True)
class Found:
    """What was found in both directions of one pair."""

    n_planted: int
    n_found: int
    n_false: int
    correlations: list[float]


def sets_of(trial: EditTrial) -> list[LatentGroup]:
    """The planted sets first, then the decoys."""
    n_edits = len(STRENGTHS)
    return [
        *(LatentGroup(f"edit {i}", planted(i)) for i in range(n_edits)),
        *(LatentGroup(f"decoy {i}", planted(n_edits + i)) for i in range(N_DECOY_SETS)),
    ]


def measure(trial: EditTrial, seed: int) -> Found:
    """Test the sets of one pair."""
    n_latents = trial.crosscoder.config.n_latents
    result = measure_effects(
        trial.crosscoder,
        trial.text,
        trial.uppers,
        ("tuned", "base"),
        sets_of(trial),
        plans=(PatchPlan(), PatchPlan()),
        pool=np.ones(n_latents, dtype=bool),
        settings=EffectSettings(),
        seed=seed,
    )
    n_found = n_false = 0
    correlations = []
    for direction in result.directions:
        tested = direction.sets[: len(STRENGTHS) + N_DECOY_SETS]
        # A set without controls is not found: nothing is claimed of it.
        bands = [each.first_order_control for each in tested]
        p = [1.0 if band is None or band.p is None else band.p for band in bands]
        is_found = stats.false_discovery_control(p) <= LEVEL
        n_found += int(is_found[: len(STRENGTHS)].sum())
        n_false += int(is_found[len(STRENGTHS) :].sum())
        shares = [(each.first_order.value, each.restored[direction.scope].value) for each in tested]
        correlations.append(float(np.corrcoef(np.array(shares, dtype=float).T)[0, 1]))
    return Found(2 * len(STRENGTHS), n_found, n_false, correlations)


def identity_gap(architecture: str, seed: int) -> float:
    """Largest gap in nats per token of a model and its copy."""
    trial = make_trial(architecture, seed, strengths=(0.0,) * len(STRENGTHS))
    result = measure_effects(
        trial.crosscoder,
        trial.text,
        trial.uppers,
        ("tuned", "base"),
        [],
        (PatchPlan(), PatchPlan()),
        np.ones(trial.crosscoder.config.n_latents, dtype=bool),
        EffectSettings(),
        seed,
    )
    return max(abs(gap.value or 0.0) for each in result.directions for gap in each.gap.values())


def main() -> None:
    """Run the pairs, print each, and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="6 pairs (24 edits) instead of 20")
    n_pairs = 6 if parser.parse_args().quick else 20
    torch.set_num_threads(1)
    begun = time.monotonic()
    found = []
    for pair in range(n_pairs):
        architecture = ARCHITECTURES[pair % len(ARCHITECTURES)]
        found.append(measure(make_trial(architecture, 1000 * (pair + 1)), pair))
        print(architecture, found[-1])
    n_found, n_false = sum(each.n_found for each in found), sum(each.n_false for each in found)
    correlations = [value for each in found for value in each.correlations]
    print(
        json.dumps(
            {
                "benchmark": "effects",
                "n_edits": n_pairs * len(STRENGTHS),
                "n_tests": sum(each.n_planted for each in found),
                "power": n_found / sum(each.n_planted for each in found),
                "false_discovery_rate": n_false / max(1, n_found + n_false),
                "identity_gap": max(identity_gap(each, 7) for each in ARCHITECTURES),
                "first_order_correlation": float(np.mean(correlations)),
                "seconds": round(time.monotonic() - begun, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
