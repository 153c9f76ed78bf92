"""How well a known dictionary is found again: precision and recall of every class.

    python benchmarks/planted.py [--quick] [--seeds N] [--only NAME ...]

Generates activations of two and of three models from a known dictionary (planted_data.py),
trains a crosscoder on them, and compares what the published bins of delta_norm, latent scaling
(`strict`) and latent scaling with intervals (`significant`) call specific with the truth. The
rules are the product's defaults. Prints a Markdown table and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from planted_data import PairClass, PlantedConfig, generate_planted
from planted_trial import (
    IN_BOTH,
    METHODS,
    ClassScore,
    Method,
    PairScore,
    TrialConfig,
    called_specific,
    pooled,
    run_trial,
)

from crosscoder.checkpoints import load_crosscoder
from crosscoder.isolation_rules import isolation_rule
from crosscoder.memory_store import noisy_copy_store
from crosscoder.model import CrosscoderConfig
from crosscoder.scaling import latent_scaling
from crosscoder.train import train

SEEDS = 5
VARIANT_SEEDS = 2
THREE_MODELS = ("pt", "it", "simpo")
NOISES = (0.05, 0.1, 0.3)


@dataclass(frozen=True)
class NoisyCopy:
    """A model against a copy of itself with noise added: every isolated latent is a false one."""

    noise: float
    """In units of the spread of the model's activations."""
    n_eligible: int
    """Latents that could have been isolated, both directions together."""
    strict: int
    significant: int


@dataclass(frozen=True)
class Setting:
    """One row of the table: what is generated and trained, over how many seeds."""

    name: str
    config: TrialConfig
    n_seeds: int


@dataclass(frozen=True)
class Outcome:
    """All trials of one setting and method, all ordered pairs pooled."""

    setting: str
    method: Method
    target_only: ClassScore
    in_both: ClassScore
    called_of_class: dict[PairClass, tuple[int, int]]
    """By class in both models: true latents called specific, true latents."""


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    settings = _quick() if arguments.quick else _settings(arguments.seeds)
    if arguments.only:
        settings = [setting for setting in settings if setting.name in arguments.only]
    started = time.perf_counter()
    outcomes = [outcome for setting in settings for outcome in _measure(setting)]
    _print_table(outcomes)
    noises = () if arguments.only else NOISES[1:2] if arguments.quick else NOISES
    nulls = [_noisy_copy(noise, 6 if arguments.quick else 24) for noise in noises]
    figures = {
        "noisy_copy": [asdict(null) for null in nulls],
        "seconds": round(time.perf_counter() - started, 1),
        "quick": arguments.quick,
        "settings": {
            setting.name: {
                outcome.method: _figures(outcome)
                for outcome in outcomes
                if outcome.setting == setting.name
            }
            for setting in settings
        },
    }
    print(json.dumps(figures))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed of two models")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="seeds of the main settings")
    parser.add_argument("--only", nargs="*", help="names of the settings to run")
    return parser.parse_args()


def _quick() -> list[Setting]:
    return [Setting("two models", TrialConfig(), 1)]


def _settings(n_seeds: int) -> list[Setting]:
    """The two main settings, and the generator and the dictionary varied one at a time."""
    base = TrialConfig()
    three = replace(base, planted=PlantedConfig(model_names=THREE_MODELS))
    return [
        Setting("two models", base, n_seeds),
        Setting("three models", three, max(1, n_seeds // 2)),
        *(
            Setting(f"noise {noise:g}", _planted(base, noise=noise), VARIANT_SEEDS)
            for noise in (0.02, 0.1, 0.15)
        ),
        Setting("noise all its own", _planted(base, shared_noise=0.0), VARIANT_SEEDS),
        *(
            Setting(f"F = {n_latents}", replace(base, n_latents=n_latents), VARIANT_SEEDS)
            for n_latents in (64, 128, 512)
        ),
        *(Setting(f"k = {k}", replace(base, k=k), VARIANT_SEEDS) for k in (2, 6, 8)),
        *(
            Setting(f"correlation {share:g}", _planted(base, correlation=share), VARIANT_SEEDS)
            for share in (0.0, 0.6)
        ),
        Setting("rare 0.2%", _planted(base, rare_density=0.002), VARIANT_SEEDS),
        Setting("density 8%", _planted(base, density=0.08), VARIANT_SEEDS),
        Setting("a third of the text", _planted(base, n_documents=270), VARIANT_SEEDS),
        *(
            Setting(
                f"own length {length:g}, weight {weight:g}", _close(length, weight), VARIANT_SEEDS
            )
            for length in (0.2, 0.1)
            for weight in (1.0, 4.0, 16.0, 64.0)
        ),
    ]


def _close(length: float, weight: float) -> TrialConfig:
    """A close fine-tune: what one model has of its own is short, most noise is common."""
    config = _planted(TrialConfig(), own_length=length, shared_noise=0.9)
    return replace(config, train=config.train.model_copy(update={"difference_weight": weight}))


def _planted(config: TrialConfig, **changes: Any) -> TrialConfig:
    return replace(config, planted=replace(config.planted, **changes))


def _measure(setting: Setting) -> list[Outcome]:
    scores: list[PairScore] = []
    for seed in range(setting.n_seeds):
        config = replace(
            setting.config,
            planted=replace(setting.config.planted, seed=seed),
            train=setting.config.train.model_copy(update={"seed": seed}),
        )
        with tempfile.TemporaryDirectory() as folder:
            trial = run_trial(config, Path(folder))
        fve = ", ".join(f"{row.fve:.3f}" for row in trial.result.quality.fve)
        print(
            f"{setting.name}, seed {seed}: {trial.n_true} true latents, k {trial.k}, FVE {fve}",
            file=sys.stderr,
        )
        scores += trial.scores
    return [_pool(setting.name, method, scores) for method in METHODS]


def _noisy_copy(noise: float, epochs: float) -> NoisyCopy:
    config = TrialConfig()
    planted = generate_planted(config.planted)
    store = noisy_copy_store(planted.store, "tuned", noise, 1, ("model", "copy"))
    crosscoder_config = CrosscoderConfig(
        n_models=2,
        d_model=config.planted.d_model,
        n_latents=config.n_latents,
        k=int(planted.truth.mean_active) + 1,
        model_names=store.model_names,
        same_init=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        settings = config.train.model_copy(update={"epochs": float(epochs)})
        train(store, crosscoder_config, settings, Path(folder))
        scaling = latent_scaling(load_crosscoder(Path(folder)), store)
    pairs = scaling.pairs.values()
    null = NoisyCopy(
        noise=noise,
        n_eligible=sum(int(isolation_rule().eligible(pair).sum()) for pair in pairs),
        strict=sum(int(called_specific(pair, "strict").sum()) for pair in pairs),
        significant=sum(int(called_specific(pair, "significant").sum()) for pair in pairs),
    )
    print(
        f"a model against its copy with noise {noise:g}: {null.strict} of {null.n_eligible} "
        f"isolated by strict, {null.significant} by significant"
    )
    return null


def _pool(setting: str, method: Method, scores: Sequence[PairScore]) -> Outcome:
    rows = [score for score in scores if score.method == method]
    called = {
        name: (
            sum(n for row in rows for cls, n, _ in row.n_called_of_class if cls == name),
            sum(n for row in rows for cls, _, n in row.n_called_of_class if cls == name),
        )
        for name in IN_BOTH
    }
    # Every ordered pair is there, so what is reference-only in one is target-only in another.
    return Outcome(
        setting,
        method,
        pooled([row.target_only for row in rows]),
        pooled([row.in_both for row in rows]),
        called,
    )


def _print_table(outcomes: Sequence[Outcome]) -> None:
    print(
        "| setting | method | target-only: precision | recall | recall of rare | "
        "in both: precision | recall | called specific: shared | shrunk | decoupled | rotated |"
    )
    print("|---" * 11 + "|")
    for row in outcomes:
        only, both = row.target_only, row.in_both
        called = " | ".join(f"{n} of {total}" for n, total in row.called_of_class.values())
        print(
            f"| {row.setting} | {row.method} | "
            f"{only.precision:.3f} ({only.n_right}/{only.n_called}) | "
            f"{only.recall:.3f} ({only.n_found}/{only.n_true}) | {only.recall_rare:.3f} | "
            f"{both.precision:.3f} | {both.recall:.3f} | {called} |"
        )


def _figures(row: Outcome) -> dict[str, float | int]:
    only, both = row.target_only, row.in_both
    return {
        "precision": round(only.precision, 4),
        "recall": round(only.recall, 4),
        "recall_rare": round(only.recall_rare, 4),
        "n_true": only.n_true,
        "n_called": only.n_called,
        "precision_in_both": round(both.precision, 4),
        "recall_in_both": round(both.recall, 4),
        **{f"called_{name}": n for name, (n, _) in row.called_of_class.items()},
    }


if __name__ == "__main__":
    main()
