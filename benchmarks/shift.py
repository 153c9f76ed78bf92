"""Strength shifts, the randomisation test and its intervals against planted truth.

    python benchmarks/shift.py [--quick] [--tables N] [--draws N]

Trains crosscoders on activations of a known dictionary (planted_data.py) whose latents one model
turns up or down, turns aside, or leaves alone, with noise, co-activation in groups, and models that
respond to every document a little differently. It measures

1. signs: of the learned latents matched to a strengthened or weakened one, with a shift above twice
   its standard error, how many have the right sign; how many untouched ones are called shifted;
2. the test under the null: categories are the groups, no latent differs; new text again and again;
   how often a table has a category with p < .05, by the randomisation and by Fisher's test;
3. power: one category is turned up; how often it is called, by the number of documents;
4. intervals: how often they hold the true value, where nothing differs and where something does.
   The true difference of shares at a number of documents is its mean over all texts of that size;
5. advice: the documents that `text_advice` asks for from the texts of the smallest size, against
   the size at which the category is called in 80% of the texts.

One thread: the matrices are small, and threads that wait for one another on a busy machine took
most of the time before. Prints Markdown tables and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from planted_data import PlantedConfig, PlantedCount, generate_planted
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
from taxonomy.mean_shift import MeanShift, mean_shifts
from taxonomy.over_seeds import log_ratio
from taxonomy.power import POWER, TextAdvice, text_advice
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
    n_documents=611,
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
TURNED_UP = 1.04
"""Length in the tuned model of the latents of the category whose power is measured."""
FULL = {
    TURNED_UP: {611: 0.75, 1200: 0.4, 2000: 0.3, 6000: 0.1},
    1.02: {611: 0.5, 2000: 0.25, 6000: 0.1},
}
QUICK = {TURNED_UP: {611: 0.5, 2000: 0.5, 6000: 0.2}}
"""By length and documents, the number of texts as a part of that under the null."""


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
class Table:
    """The change table of one text."""

    changes: list[CategoryChange]
    advice: list[TextAdvice]
    shifts: list[MeanShift]


@dataclass(frozen=True)
class NullTables:
    """How often something was called over texts in which nothing differs."""

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
    shift_any: float
    """Tables with a category whose relative mean shift has q < .05."""
    shift_single: float
    """Relative mean shifts with p < .05."""


@dataclass(frozen=True)
class ChangedTables:
    """What was found over texts of one size in which one category is turned up."""

    turned_up: float
    documents: int
    n_tables: int
    power: float
    """Texts in which the category is called up, q < .05."""
    shift_power: float
    """Texts in which its relative mean shift is called up, q < .05."""
    others_shifted: float
    """Relative mean shifts of the other categories that are called, q < .05."""
    difference: float
    """Mean difference of its shares, percentage points."""
    spread: float
    """Standard deviation of that over the texts."""
    covered: float
    """Intervals of its difference that hold the mean one."""
    covered_percent: float
    """Intervals of its percentage change that hold the one of the mean log ratio."""
    others_covered: float
    """The first, of the categories that were not turned up."""
    needed: tuple[float | None, ...]
    """Quartiles of the documents advised; None where no amount is, which counts as the most."""


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    arguments = _arguments()
    started = time.perf_counter()
    seeds = range(1 if arguments.quick else 3)
    with tempfile.TemporaryDirectory() as folder:
        signs = [_signs(seed, Path(folder) / f"signs{seed}") for seed in seeds]
        lab = Lab(*_trained(NULL, Path(folder) / "null"), arguments.draws)
    _print_signs(signs)
    null = _null_tables(lab, arguments.tables)
    _print_null(null)
    changed = []
    for turned_up, parts in (QUICK if arguments.quick else FULL).items():
        for documents, part in parts.items():
            n_tables = max(8, round(part * arguments.tables))
            changed.append(_changed_tables(lab, documents, turned_up, n_tables))
            _print_changed(changed[-1])
    _print_size(documents_at(_at(TURNED_UP, changed), POWER))
    print(
        json.dumps(
            {
                "signs": [asdict(each) for each in signs],
                "null": asdict(null),
                "changed": [asdict(each) for each in changed],
                "documents_at_80": documents_at(_at(TURNED_UP, changed), POWER),
                "seconds": round(time.perf_counter() - started, 1),
                "cpu_seconds": round(time.process_time(), 1),
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
    arguments.tables = arguments.tables or (40 if arguments.quick else 400)
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


@dataclass(frozen=True)
class Lab:
    """A crosscoder of models that do not differ, and how its tables are drawn."""

    crosscoder: Crosscoder
    match: NDArray[np.int64]
    """(F,) true latent behind each latent, -1 = none."""
    n_draws: int

    def table(self, n_documents: int, text_seed: int, turned_up: Mapping[int, float]) -> Table:
        """The change table of the groups over new text, tested by randomisation."""
        config = replace(NULL, n_documents=n_documents, text_seed=text_seed)
        planted = generate_planted(config, turned_up)
        scaling = latent_scaling(self.crosscoder, planted.store)
        sides = _isolate(scaling)
        draws = draw_sides(scaling, sides, n_draws=self.n_draws, seed=text_seed)
        group = np.array([*planted.truth.group.tolist(), -1])[self.match]
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
            np.ones(len(self.match), dtype=bool),
        )
        changes = randomised_change_statistics(counts, drawn)
        shifts = draws.shifts.astype(np.float64)
        return Table(
            changes,
            text_advice(changes, drawn, n_documents),
            mean_shifts(shifts, members[: shifts.shape[1]], [1] * n_groups),
        )


def _null_tables(lab: Lab, n_tables: int) -> NullTables:
    whole = [lab.table(NULL.n_documents, 2000 + number, {}) for number in range(n_tables)]
    tables = [table.changes for table in whole]
    changes = [change for table in tables for change in table]
    fisher = [[fisher_p(row.target, row.reference) < 0.05 for row in table] for table in tables]
    return NullTables(
        n_tables=n_tables,
        documents=NULL.n_documents,
        family=float(np.mean([_any_family(table) for table in tables])),
        single=float(np.mean([change.p_value < 0.05 for change in changes])),
        fisher_any=float(np.mean([any(row) for row in fisher])),
        fisher_single=float(np.mean(fisher)),
        covered=float(np.mean([_holds(change, 0.0) for change in changes])),
        shift_any=float(np.mean([any(map(_is_shifted, table.shifts)) for table in whole])),
        shift_single=float(
            np.mean([each.relative_shift_p < 0.05 for table in whole for each in table.shifts])
        ),
    )


def _changed_tables(lab: Lab, n_documents: int, turned_up: float, n_tables: int) -> ChangedTables:
    tables = [
        lab.table(n_documents, 100_000 * n_documents + number, {0: turned_up})
        for number in range(n_tables)
    ]
    differences = np.array([[row.difference_points for row in table.changes] for table in tables])
    mean = differences.mean(axis=0)
    held = np.array(
        [[_holds(row, mean[i]) for i, row in enumerate(table.changes)] for table in tables]
    )
    turned = [table.changes[0] for table in tables]
    ratio = float(np.mean([log_ratio(row.target, row.reference) for row in turned]))
    needed = [table.advice[0].documents_needed for table in tables]
    return ChangedTables(
        turned_up=turned_up,
        documents=n_documents,
        n_tables=n_tables,
        power=float(np.mean([row.verdict == "up" for row in turned])),
        shift_power=float(np.mean([_is_shifted(table.shifts[0], sign=1) for table in tables])),
        others_shifted=float(
            np.mean([_is_shifted(each) for table in tables for each in table.shifts[1:]])
        ),
        difference=float(mean[0]),
        spread=float(differences[:, 0].std(ddof=1)),
        covered=float(held[:, 0].mean()),
        covered_percent=float(np.mean([_holds_percent(row, ratio) for row in turned])),
        others_covered=float(held[:, 1:].mean()),
        needed=_quartiles([np.inf if each is None else float(each) for each in needed]),
    )


def _quartiles(values: Sequence[float]) -> tuple[float | None, ...]:
    found = np.quantile(values, [0.25, 0.5, 0.75], method="inverted_cdf").tolist()
    return tuple(None if math.isinf(each) else each for each in found)


def _at(turned_up: float, changed: Sequence[ChangedTables]) -> list[ChangedTables]:
    return [each for each in changed if each.turned_up == turned_up]


def documents_at(changed: Sequence[ChangedTables], power: float) -> float | None:
    """Documents at which the category is called in that share of the texts.

    Between the two sizes around it the normal quantile of the power is linear in the root of the
    documents, as it is for a difference that grows like the root; None where no two are around.
    """
    normal = NormalDist()
    for low, high in pairwise(changed):
        if low.power <= power <= high.power and low.power < high.power:
            # Half a text keeps a power of 0 or 1 finite.
            at = [
                normal.inv_cdf(min(max(each.power, 0.5 / each.n_tables), 1 - 0.5 / each.n_tables))
                for each in (low, high)
            ]
            part = (normal.inv_cdf(power) - at[0]) / (at[1] - at[0])
            roots = [np.sqrt(each.documents) for each in (low, high)]
            return float((roots[0] + part * (roots[1] - roots[0])) ** 2)
    return None


def _isolate(scaling: LatentScaling) -> ComparisonSelection:
    pairs = (scaling.pair("tuned", "base"), scaling.pair("base", "tuned"))
    return isolate_comparison(*pairs, isolation_rule("shifted", top=TOP))


def _any_family(table: Sequence[CategoryChange]) -> bool:
    return any(change.family_p is not None and change.family_p < 0.05 for change in table)


def _is_shifted(shift: MeanShift, sign: int | None = None) -> bool:
    if shift.relative_shift is None or shift.relative_shift_q is None:
        return False
    return shift.relative_shift_q < 0.05 and (sign is None or sign * shift.relative_shift > 0)


def _holds(change: CategoryChange, points: float) -> bool:
    low, high = change.difference_points_low, change.difference_points_high
    return low is not None and high is not None and low <= points <= high


def _holds_percent(change: CategoryChange, ratio: float) -> bool:
    percent = 100 * math.expm1(ratio)
    return (change.ci_low is None or change.ci_low <= percent) and (
        change.ci_high is None or percent <= change.ci_high
    )


def _print_signs(signs: Sequence[Signs]) -> None:
    _print_line("seed", "certain", "right sign", "untouched called", "turned called")
    _print_line(*["---"] * 5)
    for seed, each in enumerate(signs):
        _print_line(
            seed,
            each.n_certain,
            f"{each.right_sign:.3f}",
            f"{each.untouched_called:.3f} of {each.n_untouched}",
            f"{each.turned_called:.3f} of {each.n_turned}",
        )


def _print_null(null: NullTables) -> None:
    print()
    _print_line("under the null", "any category of a table", "a test")
    _print_line(*["---"] * 3)
    _print_line("randomisation", f"{null.family:.3f}", f"{null.single:.3f}")
    _print_line("Fisher", f"{null.fisher_any:.3f}", f"{null.fisher_single:.3f}")
    _print_line("relative mean shift", f"{null.shift_any:.3f}", f"{null.shift_single:.3f}")
    print(f"\n{null.n_tables} tables; intervals of the difference hold 0 in {null.covered:.3f}\n")
    headings = (
        "turned up", "documents", "texts", "called", "by mean shift", "others",
        "difference", "spread", "interval holds it",
        "of the percentage", "of the other categories", "advised (quartiles)",
    )  # fmt: skip
    _print_line(*headings)
    _print_line(*["---"] * len(headings))


def _print_changed(row: ChangedTables) -> None:
    _print_line(
        f"{row.turned_up - 1:+.0%}",
        row.documents,
        row.n_tables,
        f"{row.power:.2f}",
        f"{row.shift_power:.2f}",
        f"{row.others_shifted:.3f}",
        f"{row.difference:+.1f}",
        f"{row.spread:.1f}",
        f"{row.covered:.3f}",
        f"{row.covered_percent:.3f}",
        f"{row.others_covered:.3f}",
        " / ".join("none" if each is None else f"{each:.0f}" for each in row.needed),
    )


def _print_size(documents: float | None) -> None:
    size = "no size measured" if documents is None else f"{documents:.0f} documents"
    print(f"\n{TURNED_UP - 1:+.0%} is called in {POWER:.0%} of the texts at {size}")


def _print_line(*cells: object) -> None:
    print(f"| {' | '.join(str(cell) for cell in cells)} |", flush=True)


if __name__ == "__main__":
    main()
