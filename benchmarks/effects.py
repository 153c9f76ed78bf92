"""How well planted rank-1 edits are told from latents that do nothing.

    python benchmarks/effects.py [--quick | --smollm2]

Tiny random models of two architectures, one with soft caps; with --smollm2 also the demo's model on
the demo's text. Each pair has four edits below the hook; sets of two latents are tested: one for
each edit, and sets of decoys that claim differences which are not there. A set counts as found
where the Benjamini-Hochberg q of its attribution against 200 controls is at most 0.05. The last
line is JSON: `power` and `false_discovery_rate` with the number of edits, the gap of an identity
pair, and the mean correlation over the sets of a pair of first-order and patched shares.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from planted_edits import (
    SMOLLM2_LAYER,
    STRENGTHS,
    EditTrial,
    make_smollm2_trial,
    make_trial,
    planted,
)
from scipy import stats

from crosscoder.config import EffectSettings
from crosscoder.corpus import TokenizedDocument
from crosscoder.corpus_sources import read_corpus
from crosscoder.effect_result import EffectResult
from crosscoder.effects import PatchPlan, measure_effects
from crosscoder.harvest import HarvestConfig, harvest_inputs, read_text
from crosscoder.model_files import SubjectSpec
from crosscoder.models import SubjectModel, load_subject
from crosscoder.patching import LatentGroup
from labeler.cli.demo import SMOLLM2, fetch
from labeler.cli.demo import __file__ as demo_file
from labeler.study.study_file import subject_cache

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


def sets_of() -> list[LatentGroup]:
    """The planted sets first, then the decoys."""
    n_edits = len(STRENGTHS)
    return [
        *(LatentGroup(f"edit {i}", planted(i)) for i in range(n_edits)),
        *(LatentGroup(f"decoy {i}", planted(n_edits + i)) for i in range(N_DECOY_SETS)),
    ]


def measured(trial: EditTrial, sets: Sequence[LatentGroup], seed: int) -> EffectResult:
    """Effects in both directions of a pair."""
    return measure_effects(
        trial.crosscoder,
        trial.text,
        trial.uppers,
        ("tuned", "base"),
        sets,
        plans=(PatchPlan(), PatchPlan()),
        pool=np.ones(trial.crosscoder.config.n_latents, dtype=bool),
        settings=EffectSettings(),
        seed=seed,
    )


def measure(trial: EditTrial, seed: int) -> Found:
    """Test the sets of one pair."""
    n_found = n_false = 0
    correlations = []
    for direction in measured(trial, sets_of(), seed).directions:
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


def identity_gap(trial: EditTrial) -> float:
    """Largest gap in nats per token of a model and its copy."""
    result = measured(trial, [], seed=7)
    return max(abs(gap.value or 0.0) for each in result.directions for gap in each.gap.values())


def smollm2() -> tuple[SubjectModel, list[TokenizedDocument]]:
    """The demo's model in bfloat16, and the demo's corpus as it reads it."""
    spec = SubjectSpec("base", str(fetch(SMOLLM2)), dtype="bfloat16")
    config = HarvestConfig(layer=SMOLLM2_LAYER, max_length=256)
    documents = read_corpus(Path(demo_file).with_name("demo_assets") / "corpus.jsonl")
    specs = [spec, replace(spec, name="tuned")]
    inputs = harvest_inputs(specs, documents, config, cache_dir=subject_cache())
    return load_subject(inputs.facts[0].spec), list(read_text(inputs, documents, config).documents)


def main() -> None:
    """Run the pairs, print each, and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="6 pairs (24 edits) instead of 20")
    parser.add_argument("--smollm2", action="store_true", help="6 tiny pairs and 2 of SmolLM2")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.monotonic()
    found, gaps = [], []

    def add(name: str, trial: EditTrial) -> None:
        found.append(measure(trial, len(found)))
        print(name, found[-1], flush=True)

    for pair in range(6 if arguments.quick or arguments.smollm2 else 20):
        architecture = ARCHITECTURES[pair % len(ARCHITECTURES)]
        add(architecture, make_trial(architecture, 1000 * (pair + 1)))
    gaps += [identity_gap(make_trial(each, 7, strengths=(0.0,) * 4)) for each in ARCHITECTURES]
    if arguments.smollm2:
        model, chats = smollm2()
        for seed in range(2):
            add("smollm2", make_smollm2_trial(model, chats, seed))
        gaps.append(identity_gap(make_smollm2_trial(model, chats, 2, with_edits=False)))
    n_found, n_false = sum(each.n_found for each in found), sum(each.n_false for each in found)
    correlations = [value for each in found for value in each.correlations]
    print(
        json.dumps(
            {
                "benchmark": "effects",
                "n_edits": len(found) * len(STRENGTHS),
                "n_tests": sum(each.n_planted for each in found),
                "power": n_found / sum(each.n_planted for each in found),
                "false_discovery_rate": n_false / max(1, n_found + n_false),
                "identity_gap": max(gaps),
                "first_order_correlation": float(np.mean(correlations)),
                "seconds": round(time.monotonic() - begun, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
