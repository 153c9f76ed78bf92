"""Strength shifts and the randomisation test against planted truth.

    python benchmarks/shift.py [--quick] [--tables N] [--draws N]

Trains crosscoders on activations of a known dictionary (planted_data.py) whose latents one model
turns up or down, turns aside, or leaves alone, with noise, co-activation in groups, and models that
respond to every document a little differently. It measures

1. signs: of the learned latents matched to a strengthened or weakened one, with a shift above twice
   its standard error, how many have the right sign; how many untouched ones are called shifted;
2. the test under the null: categories are the groups, no latent differs; new text again and again;
   how often a table has a category with p < .05, by the randomisation and by Fisher's test;
3. power: one category is turned up; how often it is called, by the number of documents.

Prints Markdown tables and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from planted_data import Planted, PlantedConfig, PlantedCount, generate_planted
from planted_trial import TRAINING, match_latents

from crosscoder.checkpoints import load_crosscoder
from crosscoder.isolation import ComparisonSelection, isolate_comparison
from crosscoder.isolation_rules import isolation_rule
from crosscoder.model import Crosscoder, CrosscoderConfig
from crosscoder.scaling import LatentScaling, latent_scaling
from crosscoder.side_draws import draw_sides
from crosscoder.train import train
from taxonomy.counts import CategoryChange, CategoryCounts
from taxonomy.intervals import fisher_p
from taxonomy.randomisation import count_draws, randomised_change_statistics

MODELS = ("base", "tuned")
N_LATENTS = 192
TOP = 20
"""Latents per side."""
NULL = PlantedConfig(
    shared=PlantedCount(90, 0),
    own=PlantedCount(0, 0),
    shrunk=PlantedCount(0, 0),
    decoupled=PlantedCount(0, 0),
    rotated=PlantedCount(0, 0),
    response_noise=0.2,
    correlation=0.4,
    group_size=15,
    n_documents=600,
)
"""Nothing differs; six categories of fifteen latents that fire together."""
SIGNS = replace(
    NULL,
    shared=PlantedCount(60, 12),
    stronger=PlantedCount(12, 4),
    turned=PlantedCount(12, 4),
    group_size=6,
    n_documents=800,
)
DOCUMENTS = (611, 2000, 6000)
TURNED_UP = 1.04
"""Length in the tuned model of the latents of the category whose power is measured."""


@dataclass(frozen=True)
class Signs:
    """What became of the shifts of matched latents."""

    n_certain: int
    """Matched to a strengthened or weakened latent, |t| above 2."""
    right_sign: float
    n_untouched: int
    untouched_called: float
    """Share with q < .05 over latents."""
    n_turned: int
    turned_called: float


@dataclass(frozen=True)
class Tables:
    """How often something was called over tables of the same models and new text."""

    n_tables: int
    documents: int
    family: float
    """Tables with a category whose family-wise p is below .05."""
    single: float
    """Tests with p < .05, of all categories and tables."""
    fisher_any: float
    fisher_single: float
    covered: float
    """Intervals of the difference of shares that hold 0."""


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    started = time.perf_counter()
    seeds = range(1 if arguments.quick else 3)
    with tempfile.TemporaryDirectory() as folder:
        signs = [_signs(seed, Path(folder) / f"signs{seed}") for seed in seeds]
        crosscoder, match = _trained(NULL, Path(folder) / "null")
        null = _null_tables(crosscoder, match, arguments.tables, arguments.draws)
        power = _power(Path(folder) / "power", arguments)
    _print(signs, null, power)
    print(
        json.dumps(
            {
                "signs": [asdict(each) for each in signs],
                "null": asdict(null),
                "power": power,
                "seconds": round(time.perf_counter() - started, 1),
                "quick": arguments.quick,
            }
        )
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, few tables")
    parser.add_argument("--tables", type=int, default=None, help="tables under the null")
    parser.add_argument("--draws", type=int, default=None, help="draws of each table")
    arguments = parser.parse_args()
    arguments.tables = arguments.tables or (20 if arguments.quick else 200)
    arguments.draws = arguments.draws or (199 if arguments.quick else 499)
    return arguments


def _trained(config: PlantedConfig, folder: Path) -> tuple[Crosscoder, NDArray[np.int64]]:
    """A crosscoder of the models, and the true latent behind each of its latents (-1 = none)."""
    planted = generate_planted(config)
    k = int(np.ceil(planted.truth.mean_active))
    sizes = CrosscoderConfig(
        n_models=2, d_model=config.d_model, n_latents=N_LATENTS, k=k, model_names=MODELS
    )
    train(planted.store, sizes, TRAINING, folder)
    crosscoder = load_crosscoder(folder)
    return crosscoder, match_latents(crosscoder, planted).true_latent


def _signs(seed: int, folder: Path) -> Signs:
    config = replace(SIGNS, seed=seed)
    crosscoder, match = _trained(config, folder)
    planted = generate_planted(replace(config, text_seed=1000 + seed))
    pair = latent_scaling(crosscoder, planted.store).pair("tuned", "base")
    classes = np.array([*planted.truth.classes("tuned", "base"), "unmatched"])[match]
    certain = np.abs(pair.shift_t) > 2
    moved = certain & np.isin(classes, ("strengthened", "weakened"))
    wanted = np.where(classes == "strengthened", 1, -1)
    untouched, turned = (
        (classes == name) & np.isfinite(pair.shift_t) for name in ("shared", "turned")
    )
    called = pair.shift_q < 0.05
    return Signs(
        n_certain=int(moved.sum()),
        right_sign=float((np.sign(pair.shift_t) == wanted)[moved].mean()),
        n_untouched=int(untouched.sum()),
        untouched_called=float(called[untouched].mean()),
        n_turned=int(turned.sum()),
        turned_called=float(called[turned].mean()),
    )


def _null_tables(
    crosscoder: Crosscoder, match: NDArray[np.int64], n_tables: int, n_draws: int
) -> Tables:
    tables = []
    for number in range(n_tables):
        planted = generate_planted(replace(NULL, text_seed=2000 + number))
        tables.append(_table(crosscoder, match, planted, n_draws, number))
    changes = [change for table in tables for change in table]
    fisher = [[fisher_p(row.target, row.reference) < 0.05 for row in table] for table in tables]
    return Tables(
        n_tables=n_tables,
        documents=NULL.n_documents,
        family=float(np.mean([_any_family(table) for table in tables])),
        single=float(np.mean([change.p_value < 0.05 for change in changes])),
        fisher_any=float(np.mean([any(row) for row in fisher])),
        fisher_single=float(np.mean(fisher)),
        covered=float(np.mean([_holds(change, 0.0) for change in changes])),
    )


def _power(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Share of tables that call the category turned up, by documents."""
    crosscoder, match = _trained(NULL, folder)
    found = {}
    for n_documents in DOCUMENTS[:2] if arguments.quick else DOCUMENTS:
        called = []
        for number in range(max(10, arguments.tables // 10)):
            config = replace(NULL, n_documents=n_documents, text_seed=5000 + number)
            planted = generate_planted(config, turned_up={0: TURNED_UP})
            changes = _table(crosscoder, match, planted, arguments.draws, number)
            called.append(changes[0].verdict == "up")
        found[str(n_documents)] = float(np.mean(called))
    return found


def _table(
    crosscoder: Crosscoder, match: NDArray[np.int64], planted: Planted, n_draws: int, seed: int
) -> list[CategoryChange]:
    """The change table of the groups, tested by randomisation."""
    scaling = latent_scaling(crosscoder, planted.store)
    sides = _isolate(scaling)
    draws = draw_sides(scaling, sides, n_draws=n_draws, seed=seed)
    group = np.array([*planted.truth.group.tolist(), -1])[match]
    n_groups = int(planted.truth.group.max()) + 1
    members = group[:, None] == np.arange(n_groups)
    chosen = [side.latent_indices for side in (sides.target, sides.reference)]
    counts = [
        CategoryCounts(
            category=f"group {number}",
            level=1,
            parent=None,
            target_count=int(members[chosen[0], number].sum()),
            target_total=len(chosen[0]),
            reference_count=int(members[chosen[1], number].sum()),
            reference_total=len(chosen[1]),
        )
        for number in range(n_groups)
    ]
    sizes = [len(indices) for indices in chosen]
    drawn = count_draws(
        draws.target[:, : sizes[0]],
        draws.reference[:, : sizes[1]],
        members,
        np.ones(len(match), dtype=bool),
    )
    return randomised_change_statistics(counts, drawn)


def _isolate(scaling: LatentScaling) -> ComparisonSelection:
    pairs = (scaling.pair("tuned", "base"), scaling.pair("base", "tuned"))
    return isolate_comparison(*pairs, isolation_rule("shifted", top=TOP))


def _any_family(table: Sequence[CategoryChange]) -> bool:
    return any(change.family_p is not None and change.family_p < 0.05 for change in table)


def _holds(change: CategoryChange, points: float) -> bool:
    low, high = change.difference_points_low, change.difference_points_high
    return low is not None and high is not None and low <= points <= high


def _print(signs: Sequence[Signs], null: Tables, power: dict[str, float]) -> None:
    print(
        "| seed | certain | right sign | untouched called | turned called |\n|---|---|---|---|---|"
    )
    for seed, each in enumerate(signs):
        print(
            f"| {seed} | {each.n_certain} | {each.right_sign:.3f} | "
            f"{each.untouched_called:.3f} of {each.n_untouched} | "
            f"{each.turned_called:.3f} of {each.n_turned} |"
        )
    print("\n| under the null | any category of a table | a test |\n|---|---|---|")
    print(f"| randomisation | {null.family:.3f} | {null.single:.3f} |")
    print(f"| Fisher | {null.fisher_any:.3f} | {null.fisher_single:.3f} |")
    print(f"\n{null.n_tables} tables; intervals of the difference hold 0 in {null.covered:.3f}\n")
    print("| documents | the turned-up category is called |\n|---|---|")
    for documents, share in power.items():
        print(f"| {documents} | {share:.2f} |")


if __name__ == "__main__":
    main()
