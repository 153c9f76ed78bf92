"""What an adapter changed in behaviour: paired differences on held-out prompts, with intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from taxonomy.counts import Side
from taxonomy.intervals import wilson_interval
from tuning.answers import Reply
from tuning.detectors import shows_behaviour
from tuning.organisms import WEIGHTS, Behaviour, Organism, Plan, as_line, digest, sha256

MARGIN = 0.15
"""A difference whose whole interval is smaller than this counts as none."""

MARKS = {"up": " ↑", "down": " ↓", "unchanged": "", "undecided": " ?"}


@dataclass(frozen=True)
class Change:
    """How often a behaviour was shown before and after, in shares of `n` prompts."""

    n: int
    before: float
    after: float
    difference: float
    low: float
    high: float
    verdict: str
    """up, down, unchanged, or undecided where the interval allows no change and a large one."""


def paired_interval(before: Sequence[bool], after: Sequence[bool]) -> tuple[float, float]:
    """95% interval of the share after minus the share before, on the same prompts.

    Newcombe's square-and-add of two Wilson intervals with their correlation, continuity corrected
    (Statistics in Medicine 1998, 17:2635-2650, method 10).
    """
    n = len(before)
    both = sum(b and a for b, a in zip(before, after, strict=True))
    neither = sum(not b and not a for b, a in zip(before, after, strict=True))
    k1, k2 = sum(after), sum(before)
    first, second = wilson_interval(Side(k1, n)), wilson_interval(Side(k2, n))
    if first is None or second is None:
        raise ValueError("no prompts")
    p1, p2 = k1 / n, k2 / n
    scale = math.sqrt(k1 * (n - k1) * k2 * (n - k2))
    excess: float = both * neither - (k1 - both) * (k2 - both)
    if excess > 0:
        excess = max(excess - n / 2, 0.0)
    phi = excess / scale if scale else 0.0

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    low = p1 - p2 - reach(p1 - first.low, second.high - p2)
    high = p1 - p2 + reach(first.high - p1, p2 - second.low)
    return low, high


def change(before: Sequence[bool], after: Sequence[bool]) -> Change:
    """The change of one behaviour, from whether each prompt's answer showed it."""
    n = len(before)
    low, high = paired_interval(before, after)
    if low > 0:
        verdict = "up"
    elif high < 0:
        verdict = "down"
    else:
        verdict = "unchanged" if max(-low, high) <= MARGIN else "undecided"
    p1, p2 = sum(after) / n, sum(before) / n
    return Change(n, p2, p1, p1 - p2, low, high, verdict)


def shown(behaviour: Behaviour, replies: Mapping[str, Reply]) -> list[bool]:
    """Whether each held-out prompt's answer shows the behaviour; `replies` goes by prompt id."""
    prompts = behaviour.heldout()
    if behaviour.name == "brevity":
        return [replies[prompt.id].finished for prompt in prompts]
    asked = [replace(prompt, behaviour=behaviour.name) for prompt in prompts]
    return [shows_behaviour(replies[prompt.id].text, prompt) for prompt in asked]


def organism_truth(
    plan: Plan, organism: Organism, base: Mapping[str, Reply], tuned: Mapping[str, Reply]
) -> dict[str, Any]:
    """One organism's entry of truth.json: what was planted, and the change of every behaviour."""
    changes = {
        name: asdict(change(shown(behaviour, base), shown(behaviour, tuned)))
        for name, behaviour in plan.behaviours.items()
    }
    return {
        "planted": organism.planted,
        "seed": organism.seed,
        "steps": organism.steps,
        "pairs": len(organism.pairs()),
        "pairs_sha256": digest("".join(map(as_line, organism.pairs()))),
        "adapter_sha256": sha256(organism.adapter / WEIGHTS),
        "changes": {
            name: {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}
            for name, values in changes.items()
        },
    }


def whole_truth(
    plan: Plan, base: Mapping[str, Reply], organisms: Mapping[str, Any], max_new_tokens: int
) -> dict[str, Any]:
    """The content of truth.json, around the entries of the organisms."""
    return {
        "base": plan.base_name,
        "answers": f"greedy, at most {max_new_tokens} new tokens, float32",
        "interval": "95%, paired, Newcombe 1998 method 10",
        "unchanged_margin": MARGIN,
        "behaviours": {
            behaviour.name: {
                "category": behaviour.category,
                "fit": behaviour.fit,
                "shown": behaviour.shown,
                "n": len(behaviour.heldout()),
                "before": round(fmean(shown(behaviour, base)), 4),
            }
            for behaviour in plan.behaviours.values()
        },
        "organisms": dict(organisms),
    }


def table(truth: Mapping[str, Any]) -> str:
    """The truth as a Markdown table: a row per organism, a column per behaviour, the share after.

    Bold with an arrow is a change, a question mark stands where the verdict is undecided, a star
    marks what was planted.
    """
    behaviours = truth["behaviours"]
    lines = ["| adapter | " + " | ".join(behaviours) + " |", "|---" * (len(behaviours) + 1) + "|"]
    before = [f"{behaviour['before']:.0%}" for behaviour in behaviours.values()]
    lines.append("| base model | " + " | ".join(before) + " |")
    for name, organism in truth["organisms"].items():
        cells = [cell(organism["changes"][b], b in organism["planted"]) for b in behaviours]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def cell(change: Mapping[str, Any], planted: bool) -> str:
    """One cell of the table."""
    text = f"{change['after']:.0%}" + MARKS[change["verdict"]] + (" ★" if planted else "")
    return f"**{text}**" if change["verdict"] in ("up", "down") else text
