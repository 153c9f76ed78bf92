"""How often a difference without meaning is called a change, and how small a true one is called.

    python benchmarks/false_positives.py WORK_FOLDER [--quick] [--pairs N] [--smollm2 N] [--doses]

Null pairs of tiny random models: a short fine-tune, scrambled (every weight difference times
random signed permutations, its size fitted); every fourth is a model and its int8 round trip.
`--smollm2 N` adds N null pairs of SmolLM2 from the demo's adapter and two organisms of
`examples/organisms`; `--doses` the dose ladder: the same fine-tunes at LoRA scale 0 to 1. Each pair
goes through the product's own pipeline up to its change table, on a part of the demo's corpus.
Counted are

by counts      pairs with a category `up` or `down` in the change table
by strength    pairs with a category whose mean shift is called
either         pairs with one of them
held out       scrambled fine-tunes of finished studies (`--studies STUDY.toml ...`, such as those
               of organisms.py), each judged as the true one by the others; nothing is trained
permuted       of sides that were drawn at random in those studies, those with a call by counts

`power_*` is the share of the categories known to change (planted in the demo's adapter, measured
for the organisms) that are called in the right direction, by counts or by strength. What is done in
the work folder is not done again. Prints Markdown tables and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from null_pairs import (
    DOSES,
    Called,
    Result,
    fine_tunes,
    judged_by_others,
    smollm2_doses,
    smollm2_nulls,
    tiny_nulls,
)
from scipy.stats import binomtest

from labeler.study.study_file import StudyFile

CALLED = ("up", "down")
Verdict = Callable[[Called], str]
STATISTICS: dict[str, Verdict] = {
    "counts": lambda call: call.verdict,
    "strength": lambda call: call.shift_verdict,
    "either": lambda call: call.verdict if call.verdict in CALLED else call.shift_verdict,
}


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    arguments = _arguments()
    started = time.perf_counter()
    arguments.work.mkdir(parents=True, exist_ok=True)
    nulls = [
        *tiny_nulls(arguments.work, arguments.pairs),
        *smollm2_nulls(arguments.work, arguments.smollm2),
    ]
    rates = {
        f"{size}, {kind}": _rates([row for row in nulls if (row.size, row.kind) == (size, kind)])
        for size, kind in dict.fromkeys((row.size, row.kind) for row in nulls)
    }
    _print_rates(rates)
    held_out = _held_out(arguments.studies)
    ladder = list(smollm2_doses(arguments.work)) if arguments.doses else []
    powers = {dose: _powers([row for row in ladder if row.dose == dose]) for dose in DOSES}
    powers = {dose: found for dose, found in powers.items() if found["n_known"]}
    _print_powers(powers)
    by_counts = _rate([_is_called(row, STATISTICS["counts"]) for row in nulls])
    print(
        json.dumps(
            {
                "pairs": len(nulls),
                "false_positive_rate": by_counts["rate"],
                "false_positive_interval": by_counts["interval"],
                "by_statistic": {
                    name: _rate([_is_called(row, verdict) for row in nulls])
                    for name, verdict in STATISTICS.items()
                },
                "by_kind": rates,
                "held_out": held_out,
                "permuted": _rate([call for row in nulls for call in row.permuted]),
                "power_at_full_dose": powers.get(1.0, {}).get("either"),
                "power_by_dose": {f"{dose:g}": found["either"] for dose, found in powers.items()},
                "power_by_statistic": {f"{dose:g}": found for dose, found in powers.items()},
                "seconds": round(time.perf_counter() - started, 1),
                "quick": arguments.quick,
            }
        )
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for studies; what is there is used again")
    parser.add_argument("--quick", action="store_true", help="8 null pairs of tiny models")
    parser.add_argument("--pairs", type=int, default=None, help="null pairs of tiny models")
    parser.add_argument("--smollm2", type=int, default=0, help="null pairs of SmolLM2")
    parser.add_argument("--doses", action="store_true", help="the dose ladder of SmolLM2")
    parser.add_argument("--studies", type=Path, nargs="*", default=[], help="finished studies")
    arguments = parser.parse_args()
    if arguments.pairs is None:
        arguments.pairs = 8 if arguments.quick else 60
    return arguments


def _is_called(row: Result, verdict: Verdict) -> bool:
    return any(verdict(call) in CALLED for call in row.calls.values())


def _rate(called: Sequence[bool]) -> dict[str, Any]:
    """How many, their share, and its 95% interval (Clopper and Pearson 1934)."""
    if not called:
        return {"called": 0, "of": 0, "rate": None, "interval": None}
    interval = binomtest(sum(called), len(called)).proportion_ci(method="exact")
    return {
        "called": sum(called),
        "of": len(called),
        "rate": round(sum(called) / len(called), 4),
        "interval": [round(interval.low, 4), round(interval.high, 4)],
    }


def _rates(rows: Sequence[Result]) -> dict[str, Any]:
    """The rates of one kind of null pair, by statistic, and those of its permuted sides."""
    return {
        **{
            name: _rate([_is_called(row, verdict) for row in rows])
            for name, verdict in STATISTICS.items()
        },
        "permuted": _rate([call for row in rows for call in row.permuted]),
    }


def _held_out(paths: Sequence[Path]) -> dict[str, Any]:
    """Rates over the scrambled fine-tunes of finished studies, each judged by the others."""
    calls = [call for path in paths for call in judged_by_others(StudyFile.read(path))]
    found = {
        name: _rate([verdict(call) in CALLED for call in calls])
        for name, verdict in STATISTICS.items()
    }
    if calls:
        cells = [_shown(found[name]) for name in STATISTICS]
        print(f"| held out, {len(paths)} studies | {' | '.join(cells)} | |", flush=True)
    return found


def _powers(rows: Sequence[Result]) -> dict[str, Any]:
    """Of the categories known to change: called in the right direction; calls of any category."""
    known = fine_tunes() if rows else {}
    found: dict[str, Any] = {"n_known": sum(len(known[row.of]) for row in rows)}
    for name, verdict in STATISTICS.items():
        right = [
            category in row.calls and verdict(row.calls[category]) == direction
            for row in rows
            for category, direction in known[row.of].items()
        ]
        found[name] = round(sum(right) / len(right), 4) if right else None
        found[f"{name}_calls"] = sum(
            verdict(call) in CALLED for row in rows for call in row.calls.values()
        )
    return found


def _print_rates(rates: dict[str, dict[str, Any]]) -> None:
    print(
        "| null pairs | by counts | by strength | either | permuted sides |\n|---|---|---|---|---|"
    )
    for name, found in rates.items():
        cells = [_shown(found[key]) for key in (*STATISTICS, "permuted")]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _shown(rate: dict[str, Any]) -> str:
    if not rate["of"]:
        return ""
    low, high = rate["interval"]
    return f"{rate['called']} of {rate['of']} ({low:.3f} to {high:.3f})"


def _print_powers(powers: dict[float, dict[str, Any]]) -> None:
    if not powers:
        return
    print("\n| dose | known changes | found by counts | by strength | by either | all calls |")
    print("|---:|---:|---:|---:|---:|---:|")
    for dose, found in powers.items():
        calls = f"{found['counts_calls']} and {found['strength_calls']}"
        shares = " | ".join(f"{found[name]:.2f}" for name in STATISTICS)
        print(f"| {dose:g} | {found['n_known']} | {shares} | {calls} |", flush=True)


if __name__ == "__main__":
    main()
