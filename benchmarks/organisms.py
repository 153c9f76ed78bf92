"""How often each isolation rule says what a fine-tune did, on pairs whose truth was measured.

    python benchmarks/organisms.py WORK_FOLDER [--quick] [--seeds N] [--only NAME ...] [--text TEXT]

Each organism of `examples/organisms` is SmolLM2 with an adapter; `truth.json` says by generation
which behaviours went up, went down, or did not change. A study per organism and training seed reads
the demo's corpus (with `--text`: each model's own answers, prompts alone, or the first 8 tokens of
the answers); every latent that a rule may choose from is labelled once by the embedded judge.
Then each rule chooses its sides, and the randomisation over documents tests every category:

right_sign       share of the truly changed categories whose estimate has the true sign
distinguishable  share of them with the verdict `up` or `down`, in the true direction
false_calls      share of the truly unchanged categories with a verdict `up` or `down`
contradicted_calls  the same without `down` where the base model hardly shows the behaviour: its
                 answers cannot show a fall, so they do not contradict the call
recurrence       share of a rule's latents with a latent of decoder cosine above .7 (over both
                 models) on the same side under another training seed, mean over ordered pairs
own_minus_shuffled  detection score of its latents' explanations less that of shuffled ones, mean

Undecided behaviours count nowhere. What is done in the work folder is not done again. Prints a
Markdown table and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from organism_studies import (
    MEAN_SHIFTS,
    SCORED,
    TEXTS,
    Called,
    Measured,
    Truth,
    mean_shift_calls,
    measured,
    read_truths,
    rules,
)

QUICK = 2
SAME_LATENT = 0.7
"""Decoder cosine above which latents of two training seeds count as the same."""


@dataclass
class Score:
    """What one rule got right, over organisms and seeds."""

    n_changed: int = 0
    n_right: int = 0
    n_distinguished: int = 0
    n_unchanged: int = 0
    n_false: int = 0
    n_contradicted: int = 0
    recurrences: list[float] = field(default_factory=list)
    own_minus_shuffled: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float | int | None]:
        """Counts, shares and means; None where nothing was to be said."""

        def share(count: int, total: int) -> float | None:
            return round(count / total, 4) if total else None

        return {
            "n_changed": self.n_changed,
            "n_unchanged": self.n_unchanged,
            "right_sign": share(self.n_right, self.n_changed),
            "distinguishable": share(self.n_distinguished, self.n_changed),
            "false_calls": share(self.n_false, self.n_unchanged),
            "contradicted_calls": share(self.n_contradicted, self.n_unchanged),
            "recurrence": _mean(self.recurrences),
            "own_minus_shuffled": _mean(self.own_minus_shuffled),
        }


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    started = time.perf_counter()
    truths = [
        truth for truth in read_truths() if not arguments.only or truth.name in arguments.only
    ]
    if arguments.quick:
        truths = truths[:QUICK]
    together = arguments.seeds > 1
    scores = {
        name: Score()
        for name in (*rules(), *MEAN_SHIFTS, *(map(_over_seeds, MEAN_SHIFTS) if together else ()))
    }
    rows = []
    for truth in truths:
        studies = [
            measured(arguments.work, truth, seed, arguments.draws, arguments.text)
            for seed in range(arguments.seeds)
        ]
        said: list[tuple[int | None, str, Mapping[str, Called]]] = []
        for seed, study in enumerate(studies):
            for rule in rules():
                scores[rule].own_minus_shuffled += mean_gain(study, rule)
            found: dict[str, Mapping[str, Called]] = {
                **study.calls,
                **mean_shift_calls([study]),
            }
            said += [(seed, rule, calls) for rule, calls in found.items()]
        if together:
            over = mean_shift_calls(studies)
            said += [(None, _over_seeds(rule), calls) for rule, calls in over.items()]
        for number, rule, calls in said:
            add(scores[rule], truth, calls)
            rows += [
                {"organism": truth.name, "seed": number, "rule": rule, "category": category}
                | {"truth": verdict, **asdict(calls[category])}
                for category, verdict in truth.verdicts.items()
                if category in calls
            ]
        for first, second in itertools.permutations(studies, 2):
            for rule in rules():
                scores[rule].recurrences += recurrence(first, second, rule)
    _print(scores)
    print(
        json.dumps(
            {
                "rules": {name: each.summary() for name, each in scores.items()},
                "organisms": [truth.name for truth in truths],
                "seeds": arguments.seeds,
                "text": arguments.text,
                "rows": rows,
                "seconds": round(time.perf_counter() - started, 1),
                "quick": arguments.quick,
            }
        )
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for studies; what is there is used again")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} organisms, one seed")
    parser.add_argument("--seeds", type=int, default=None, help="training seeds of each organism")
    parser.add_argument("--draws", type=int, default=2000, help="random swaps of each test")
    parser.add_argument("--only", nargs="*", help="names of the organisms")
    parser.add_argument("--text", choices=TEXTS, default="given", help="what the models read")
    arguments = parser.parse_args()
    arguments.seeds = arguments.seeds or (1 if arguments.quick else 3)
    return arguments


def _over_seeds(rule: str) -> str:
    return f"{rule}, over the seeds"


def mean_gain(study: Measured, rule: str) -> list[float]:
    """Mean own-minus-shuffled score of a rule's first latents; empty where none was scored."""
    if rule not in study.sides:
        return []
    first = np.concatenate([side[:SCORED] for side in study.sides[rule]])
    gains = [study.gains[int(each)] for each in first if int(each) in study.gains]
    return [float(np.mean(gains))] if gains else []


def recurrence(first: Measured, second: Measured, rule: str) -> list[float]:
    """Share of a rule's latents that it also chose, on the same side, under another seed."""
    best = [
        (first.decoder[own] @ second.decoder[other].T).max(axis=1)
        for own, other in zip(first.sides[rule], second.sides[rule], strict=True)
        if len(own) and len(other)
    ]
    n = sum(len(side) for side in first.sides[rule])
    return [sum(int((each > SAME_LATENT).sum()) for each in best) / n] if n else []


def add(score: Score, truth: Truth, calls: Mapping[str, Called]) -> None:
    """Count one table; a rule without latents says nothing, rightly where nothing changed."""
    for category, verdict in truth.verdicts.items():
        call = calls.get(category)
        called = "no evidence" if call is None else call.verdict
        if verdict == "unchanged":
            score.n_unchanged += 1
            score.n_false += called in ("up", "down")
            cannot_be_seen = called == "down" and category in truth.cannot_fall
            score.n_contradicted += called in ("up", "down") and not cannot_be_seen
            continue
        score.n_changed += 1
        change = 0.0 if call is None else call.change
        score.n_right += change > 0 if verdict == "up" else change < 0
        score.n_distinguished += called == verdict


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None


def _print(scores: Mapping[str, Score]) -> None:
    heads = "right sign | distinguishable | false calls | contradicted | recurrence"
    print(f"| rule | {heads} | own - shuffled |\n|---|---|---|---|---|---|---|")
    for name, score in scores.items():
        print(
            f"| {name} | {score.n_right} of {score.n_changed} | "
            f"{score.n_distinguished} of {score.n_changed} | "
            f"{score.n_false} of {score.n_unchanged} | "
            f"{score.n_contradicted} of {score.n_unchanged} | "
            f"{_shown(_mean(score.recurrences))} | {_shown(_mean(score.own_minus_shuffled))} |"
        )


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
