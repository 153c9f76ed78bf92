"""How often do the intervals of the change cover it? Simulated latents, judges, weights and seeds.

Each row draws many comparisons with known shares and counts how often a 95% interval holds the
true value. Estimand `superpopulation`: the shares in the population the latents are drawn from;
`finite_population`: the shares that a review of every drawn latent would find.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from taxonomy.change import effective_side, widened_alpha
from taxonomy.counts import ALPHA, Side
from taxonomy.intervals import ratio_interval
from taxonomy.judge_error import (
    CorrectedShare,
    Estimand,
    SideAnswers,
    corrected_ratio,
    corrected_share,
)
from taxonomy.over_seeds import LogRatio, combine_seeds

log = logging.getLogger("change_coverage")
FULL, QUICK = 4_000, 300
"""Simulated comparisons of a row."""


@dataclass(frozen=True)
class JudgeDesign:
    """True shares, the judge's errors (per side), latents and reviewed latents of each side."""

    target_share: float
    reference_share: float
    sensitivity: tuple[float, float]
    specificity: tuple[float, float]
    latents: int
    reviewed: int
    estimand: Estimand = "superpopulation"
    unequal: bool = False
    """Latents the judge puts into the category are drawn three times as often."""


JUDGE_DESIGNS = (
    *(
        JudgeDesign(target, reference, (0.85, 0.85), (0.97, 0.97), latents, reviewed)
        for target, reference in ((0.20, 0.15), (0.12, 0.06), (0.08, 0.08))
        for latents, reviewed in ((300, 60), (300, 100), (1000, 100), (1000, 200), (300, 270))
    ),
    JudgeDesign(0.25, 0.08, (0.90, 0.90), (0.95, 0.95), 1000, 100),
    JudgeDesign(0.10, 0.10, (0.90, 0.90), (0.90, 0.98), 1000, 100),
    JudgeDesign(0.12, 0.06, (0.85, 0.85), (0.97, 0.97), 1000, 200, unequal=True),
    JudgeDesign(0.12, 0.06, (0.85, 0.85), (0.97, 0.97), 300, 100, "finite_population"),
    JudgeDesign(0.20, 0.15, (0.85, 0.85), (0.97, 0.97), 300, 270, "finite_population"),
    JudgeDesign(0.03, 0.02, (0.85, 0.85), (0.97, 0.97), 1000, 100),
)


@dataclass(frozen=True)
class JudgeRow:
    """Coverage of one design."""

    design: JudgeDesign
    naive_change: float
    """Score interval of the ratio of the judge's own shares."""
    corrected_change: float
    corrected_target_share: float
    corrected_reference_share: float
    median_width_ratio: float
    """Median of upper over lower end of the corrected ratio's interval."""


def draw_side(
    design: JudgeDesign, side: int, generator: np.random.Generator
) -> tuple[SideAnswers, float]:
    """One side's answers, and the true share of its latents."""
    share = (design.target_share, design.reference_share)[side]
    human = generator.random(design.latents) < share
    judge = np.where(
        human,
        generator.random(design.latents) < design.sensitivity[side],
        generator.random(design.latents) >= design.specificity[side],
    )
    odds = np.where(judge, 3.0, 1.0) if design.unequal else np.ones(design.latents)
    probability = np.minimum(1.0, design.reviewed * odds / odds.sum())
    if design.unequal:
        audited = generator.random(design.latents) < probability
    else:
        audited = np.zeros(design.latents, dtype=np.bool_)
        audited[generator.choice(design.latents, design.reviewed, replace=False)] = True
    everything = np.ones(design.latents, dtype=np.bool_)
    answers = SideAnswers(judge, everything, human, everything, audited, audited, probability)
    return answers, float(human.mean())


def judge_row(design: JudgeDesign, repeats: int, seed: int) -> JudgeRow:
    """Simulate one design."""
    generator = np.random.default_rng(seed)
    naive = change = target_hits = reference_hits = 0
    widths = []
    for _ in range(repeats):
        drawn = [draw_side(design, side, generator) for side in (0, 1)]
        target, reference = (corrected_share(one, design.estimand) for one, _ in drawn)
        true = (design.target_share, design.reference_share)
        if design.estimand == "finite_population":
            true = (drawn[0][1], drawn[1][1])
        ratio = true[0] / true[1] if true[1] else math.inf
        interval = corrected_ratio(target, reference).interval
        plain = ratio_interval(judged(drawn[0][0]), judged(drawn[1][0]))
        naive += plain is None or plain.low <= ratio <= plain.high
        change += interval.low <= ratio <= interval.high
        target_hits += holds(target, true[0])
        reference_hits += holds(reference, true[1])
        widths.append(interval.high / interval.low if interval.low else math.inf)
    return JudgeRow(
        design,
        naive / repeats,
        change / repeats,
        target_hits / repeats,
        reference_hits / repeats,
        float(np.median(widths)),
    )


def judged(answers: SideAnswers) -> Side:
    """What the judge alone says."""
    return Side(int(answers.judge.sum()), answers.n_latents)


def holds(share: CorrectedShare, true: float) -> bool:
    """Whether a share's interval holds the true one."""
    return share.low <= true <= share.high


@dataclass(frozen=True)
class WeightRow:
    """Coverage of the weighted change: log-normal weights of this spread, this much larger in
    the category."""

    target_share: float
    reference_share: float
    target_latents: int
    reference_latents: int
    spread: float
    factor: float
    coverage: float
    bootstrap_coverage: float | None
    """Percentile bootstrap over latents, for comparison; None where it was not run."""


WEIGHT_DESIGNS = (
    (0.20, 0.16, 89, 112, 0.0, 1.0),
    (0.20, 0.16, 89, 112, 1.0, 1.0),
    (0.20, 0.16, 89, 112, 1.0, 3.0),
    (0.06, 0.06, 89, 112, 1.0, 1.0),
    (0.06, 0.06, 89, 112, 1.0, 3.0),
    (0.03, 0.02, 89, 112, 1.0, 1.0),
    (0.20, 0.16, 89, 112, 1.5, 1.0),
    (0.08, 0.05, 300, 300, 1.0, 1.0),
    (0.08, 0.05, 300, 300, 1.0, 3.0),
)
BOOTSTRAP_DRAWS = 400


def weight_row(
    design: tuple[float, float, int, int, float, float], repeats: int, seed: int
) -> WeightRow:
    """Simulate one design."""
    target, reference, n_target, n_reference, spread, factor = design
    generator = np.random.default_rng(seed)
    true = [share * factor / (share * factor + 1 - share) for share in (target, reference)]
    ratio = true[0] / true[1]
    hits = bootstrap_hits = 0
    for _ in range(repeats):
        sides = []
        for share, n_latents in ((target, n_target), (reference, n_reference)):
            inside = generator.random(n_latents) < share
            weights = np.exp(generator.normal(0, spread, n_latents))
            sides.append((weights * np.where(inside, factor, 1.0), inside))
        first, second = (effective_side(w, np.flatnonzero(inside)) for w, inside in sides)
        interval = ratio_interval(first, second, widened_alpha(ALPHA, first, second))
        hits += interval is None or interval.low <= ratio <= interval.high
        low, high = bootstrap_interval(sides, generator)
        bootstrap_hits += low <= ratio <= high
    return WeightRow(
        target, reference, n_target, n_reference, spread, factor, hits / repeats,
        bootstrap_hits / repeats,
    )  # fmt: skip


def bootstrap_interval(
    sides: Sequence[tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]],
    generator: np.random.Generator,
) -> tuple[float, float]:
    """Percentile interval of the ratio from latents redrawn within each side."""
    shares = []
    for weights, inside in sides:
        chosen = generator.integers(0, len(weights), (BOOTSTRAP_DRAWS, len(weights)))
        shares.append((weights * inside)[chosen].sum(axis=1) / weights[chosen].sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = shares[0] / shares[1]
    known = ratios[~np.isnan(ratios)]
    if not len(known):
        return 0.0, math.inf
    low, high = np.quantile(known, (0.025, 0.975), method="nearest")
    return float(low), float(high)


@dataclass(frozen=True)
class SeedRow:
    """Coverage of the combined change, and of one seed's own interval."""

    seeds: int
    between_deviation: float
    """Standard deviation of the log ratio between seeds; within a seed it is 0.3."""
    shared: float
    """Part of the variance within a seed that all seeds have in common."""
    combined: float
    one_seed: float


SEED_DESIGNS = ((3, 0.0, 1.0), (3, 0.3, 1.0), (5, 0.3, 1.0), (5, 0.3, 0.0), (5, 0.6, 0.5))
WITHIN = 0.3


def seed_row(design: tuple[int, float, float], repeats: int, seed: int) -> SeedRow:
    """Simulate one design: log ratios of several seeds around a true one of 0."""
    n_seeds, between, shared = design
    generator = np.random.default_rng(seed)
    combined = one = 0
    for _ in range(repeats):
        common = generator.normal(0, WITHIN * math.sqrt(shared))
        own = generator.normal(0, WITHIN * math.sqrt(1 - shared), n_seeds)
        values = common + own + generator.normal(0, between, n_seeds)
        change = combine_seeds([LogRatio(float(value), WITHIN**2) for value in values])
        combined += change.ci_low <= 0 <= change.ci_high
        one += abs(float(values[0])) <= 1.959964 * WITHIN
    return SeedRow(n_seeds, between, shared, combined / repeats, one / repeats)


def judge_table(rows: Sequence[JudgeRow]) -> Iterator[str]:
    """The judge rows as Markdown."""
    yield (
        "| true shares | sensitivity | specificity | N | reviewed | estimand | naive change "
        "| corrected change | corrected shares |"
    )
    yield "|---|---|---|---:|---:|---|---:|---:|---|"
    for row in rows:
        one = row.design
        reviewed = f"{one.reviewed}, unequal" if one.unequal else str(one.reviewed)
        yield (
            f"| {one.target_share:.2f}, {one.reference_share:.2f} | {pair(one.sensitivity)} "
            f"| {pair(one.specificity)} | {one.latents} | {reviewed} | {one.estimand} "
            f"| {row.naive_change:.3f} | {row.corrected_change:.3f} "
            f"| {row.corrected_target_share:.3f}, {row.corrected_reference_share:.3f} |"
        )


def pair(values: tuple[float, float]) -> str:
    """One number where both sides have it, else both."""
    return f"{values[0]:.2f}" if values[0] == values[1] else f"{values[0]:.2f}, {values[1]:.2f}"


def weight_table(rows: Sequence[WeightRow]) -> Iterator[str]:
    """The weight rows as Markdown."""
    yield "| true latent shares | latents | spread | factor | effective score | bootstrap |"
    yield "|---|---|---:|---:|---:|---:|"
    for row in rows:
        yield (
            f"| {row.target_share:.2f}, {row.reference_share:.2f} "
            f"| {row.target_latents}, {row.reference_latents} | {row.spread:.1f} "
            f"| {row.factor:.0f} | {row.coverage:.3f} | {row.bootstrap_coverage:.3f} |"
        )


def seed_table(rows: Sequence[SeedRow]) -> Iterator[str]:
    """The seed rows as Markdown."""
    yield "| seeds | between | shared | combined | one seed |"
    yield "|---:|---:|---:|---:|---:|"
    for row in rows:
        yield (
            f"| {row.seeds} | {row.between_deviation:.1f} | {row.shared:.1f} "
            f"| {row.combined:.3f} | {row.one_seed:.3f} |"
        )


def main() -> None:
    """Simulate, print the tables, and one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer comparisons, under a minute")
    parser.add_argument("--seed", type=int, default=20261123)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    repeats = QUICK if options.quick else FULL
    start = time.perf_counter()
    judges = [judge_row(one, repeats, options.seed + i) for i, one in enumerate(JUDGE_DESIGNS)]
    log.info("judges: %.0f s", time.perf_counter() - start)
    weights = [weight_row(one, repeats, options.seed + i) for i, one in enumerate(WEIGHT_DESIGNS)]
    log.info("weights: %.0f s", time.perf_counter() - start)
    seeds = [seed_row(one, repeats, options.seed + i) for i, one in enumerate(SEED_DESIGNS)]
    for lines in (judge_table(judges), weight_table(weights), seed_table(seeds)):
        print("\n".join(lines), end="\n\n")
    figures = {
        "repeats": repeats,
        "seconds": round(time.perf_counter() - start, 1),
        "judge": [asdict(row) for row in judges],
        "weights": [asdict(row) for row in weights],
        "seeds": [asdict(row) for row in seeds],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
