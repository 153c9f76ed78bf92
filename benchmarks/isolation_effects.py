"""What the latents that each isolation rule chooses do to the output, on a finished study.

    python benchmarks/isolation_effects.py STUDY.toml [--rules ranked shifted changed effect]
        [--top 40] [--max-tokens 2000] [--controls 20] [--draws 2000] [--scored 0]

Attribution is measured on random documents that training did not see; the rule `effect` chooses by
one half of them, and all rules are tested on the other half. A rule's set is `--top` latents, half
of them strengthened and half weakened: the first of each side. For each rule, towards the target:

restored     share of the output gap that the set restores by true patching, 95% interval over
             documents, and the mean of `--controls` random sets as near in number and magnitude as
             can be (`alike`: their magnitude as a share of the set's)
closed       the same by attribution, with 200 controls and p; and back, towards the reference
planted      categories of `[report.planted]` whose estimate has the planted sign with `--top`
             latents per side, and those that the randomisation over documents calls
gain         detection score of explanations less that of shuffled ones, mean over the set
             (`--scored` latents of each side; needs labels and evidence of all eligible latents)

The study is not changed but for scores. Prints a Markdown table and, as its last line, one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from organism_studies import changes_of, done_run, explanation_gains, read_labels

from crosscoder.attribution import Attribution, attribute, choice_half, chosen_shares
from crosscoder.attribution_file import load_attributions, save_attributions
from crosscoder.config import EffectSettings
from crosscoder.effect_result import SetEffect
from crosscoder.effects import (
    ALL,
    ALL_AND_CONSTANT,
    CONSTANT,
    TOP_ATTRIBUTION,
    TOP_MAGNITUDE,
    PatchPlan,
    directions_of,
    measure_effects,
)
from crosscoder.isolation import ComparisonSelection, isolate_comparison
from crosscoder.isolation_rules import RULES, isolation_rule
from crosscoder.patching import LatentGroup
from crosscoder.scaling import LatentScaling
from labeler.api import Study
from labeler.progress import progress_for
from labeler.stages.attribution import EffectPair, UpperModels, effect_pairs, effect_text
from labeler.stages.base import StageContext
from labeler.stages.isolate import scaled
from labeler.stages.pipeline import with_key
from labeler.stages.train import trained_crosscoder
from labeler.store.engine import open_engine
from labeler.study.study_file import StudyFile

RULE_NAMES = ("ranked", "shifted", "changed", "effect")
LEFT_OUT = frozenset({TOP_ATTRIBUTION, TOP_MAGNITUDE, CONSTANT, ALL_AND_CONSTANT})
"""Sets that every direction has and no rule chose."""


@dataclass(frozen=True)
class Shown:
    """What the table says of one rule."""

    rule: str
    n_latents: int
    restored: float | None
    restored_low: float | None
    restored_high: float | None
    restored_control: float | None
    restored_p: float | None
    closed: float | None
    control: float | None
    p: float | None
    alike: float | None
    """Magnitude of the controls as a share of the set's."""
    closed_back: float | None
    control_back: float | None
    right_sign: int
    called: int
    n_planted: int
    gain: float | None


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    started = time.perf_counter()
    file = _study(arguments.study, arguments.max_tokens)
    context = StageContext(file, open_engine(file.database_url), progress_for())
    for name in ("harvest", "train", "isolate"):
        context = with_key(context, name)
    pair = effect_pairs(file, file.config.comparison[0])[0]
    models = UpperModels(context)
    known = _attributions(context, models, pair, arguments.attribution)
    scaling = scaled(context, pair.crosscoder)
    scaling = scaling.with_attribution(pair.models, chosen_shares(known))
    chosen = {name: _chosen(scaling, pair.models, name, arguments.top) for name in arguments.rules}
    sets = [LatentGroup(name, both_sides(sides, arguments.top)) for name, sides in chosen.items()]
    text = effect_text(context, pair)
    tested = ~choice_half(known[0].n_groups)
    # A group is a document here: there are fewer than MAX_GROUPS.
    documents = tuple(np.array(text.documents)[tested].tolist())
    patched = frozenset(each.name for each in sets) if arguments.controls else frozenset()
    crosscoder = trained_crosscoder(context, pair.crosscoder)
    nothing = frozenset({*LEFT_OUT, ALL, *(each.name for each in sets)})
    result = measure_effects(
        crosscoder,
        replace(text, documents=documents),
        models.of(pair, text),
        pair.models,
        sets,
        plans=(PatchPlan(LEFT_OUT, patched), PatchPlan(nothing)),
        pool=isolation_rule("changed").eligible(scaling.pair(*pair.models)),
        settings=EffectSettings(patched_controls=arguments.controls, ablated=0),
        seed=0,
        progress=context.progress,
        attributions=[of_groups(each, tested) for each in known],
    )
    rows = []
    for name, sides in chosen.items():
        towards, back = (direction.set_named(name) for direction in result.directions)
        planted = _planted(context, file, scaling, sides, arguments.draws)
        gain = _gain(file, context, sides, arguments.scored)
        rows.append(_row(name, (towards, back), result.directions[0].scope, planted, gain))
        print(f"{name}: {rows[-1]}")
    direction = result.directions[0]
    whole = direction.set_named(ALL).restored[direction.scope].value
    _print(rows)
    print(
        json.dumps(
            {
                "rules": [asdict(row) for row in rows],
                "top": arguments.top,
                "gap": direction.gap[direction.scope].value,
                "all_latents": whole,
                "n_documents": len(documents),
                "n_tokens": direction.n_tokens[direction.scope],
                "first_order_correlation": direction.pearson,
                "seconds": round(time.perf_counter() - started, 1),
            }
        )
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", type=Path, help="a study whose stages are done up to isolate")
    parser.add_argument("--rules", nargs="*", choices=RULES.names(), default=list(RULE_NAMES))
    parser.add_argument("--top", type=int, default=40, help="latents of a rule's set")
    parser.add_argument("--max-tokens", type=int, default=2000, help="tokens of the documents")
    parser.add_argument("--controls", type=int, default=0, help="patched controls, 0 or >= 19")
    parser.add_argument("--draws", type=int, default=2000, help="random swaps of each test")
    parser.add_argument("--scored", type=int, default=0, help="latents of each side to score")
    parser.add_argument("--attribution", type=Path, help="file that keeps it for another run")
    return parser.parse_args()


def _study(path: Path, max_tokens: int) -> StudyFile:
    """The study with so many tokens in `[effect]`."""
    file = Study.open(path).file
    effect = file.config.effect.model_copy(update={"max_tokens": max_tokens})
    return StudyFile(file.path, file.config.model_copy(update={"effect": effect}))


def _attributions(
    context: StageContext, models: UpperModels, pair: EffectPair, path: Path | None
) -> tuple[Attribution, ...]:
    """Of both directions, from the file where it is there."""
    if path is not None and path.is_file():
        return load_attributions(path)
    text = effect_text(context, pair)
    crosscoder = trained_crosscoder(context, pair.crosscoder)
    directions = directions_of(crosscoder, models.of(pair, text), pair.models)
    found = tuple(attribute(crosscoder, text, directions, progress=context.progress))
    if path is not None:
        save_attributions(found, path)
    return found


def of_groups(attribution: Attribution, kept: NDArray[np.bool_]) -> Attribution:
    """The attribution of some groups of documents alone."""
    rows = kept[attribution.group]
    number = np.cumsum(kept) - 1
    gap = attribution.gap
    return replace(
        attribution,
        gap=replace(gap, n_tokens=gap.n_tokens[kept], kl=gap.kl[kept]),
        line=attribution.line[kept],
        constant=attribution.constant[kept],
        group=number[attribution.group[rows]].astype(np.int32),
        latent=attribution.latent[rows],
        closed=attribution.closed[rows],
        magnitude=attribution.magnitude[rows],
    )


def _chosen(
    scaling: LatentScaling, models: tuple[str, str], name: str, top: int
) -> ComparisonSelection:
    pairs = [scaling.pair(*each) for each in (models, models[::-1])]
    return isolate_comparison(pairs[0], pairs[1], isolation_rule(name, top=top))


def both_sides(sides: ComparisonSelection, top: int) -> NDArray[np.int64]:
    """The first half of `top` latents of each side, ascending."""
    halves = [side.latent_indices[: top // 2] for side in (sides.target, sides.reference)]
    return np.sort(np.concatenate(halves))


def _planted(
    context: StageContext,
    file: StudyFile,
    scaling: LatentScaling,
    sides: ComparisonSelection,
    n_draws: int,
) -> tuple[int, int, int]:
    """Planted categories with the right sign, called in the right direction, and all."""
    planted = file.config.report.planted
    if not planted or not n_draws:
        return 0, 0, len(planted)
    labels, nodes = read_labels(context.engine)
    rows = {
        row.category: row
        for row in changes_of(scaling, sides, labels, nodes, n_draws, file.config.study.seed)
        if row.category in planted
    }
    signs = {slug: 1 if direction == "up" else -1 for slug, direction in planted.items()}
    right = [slug for slug, row in rows.items() if (row.difference_points or 0) * signs[slug] > 0]
    called = [slug for slug, row in rows.items() if row.verdict == planted[slug]]
    return len(right), len(called), len(planted)


def _gain(
    file: StudyFile, context: StageContext, sides: ComparisonSelection, n_scored: int
) -> float | None:
    if not n_scored:
        return None
    first = [side.latent_indices[:n_scored] for side in (sides.target, sides.reference)]
    latents = np.concatenate(first)
    run = done_run(context.engine, "label")
    found = explanation_gains(Study(file), context.engine, run.id, latents)
    gains = [found[int(each)] for each in latents if int(each) in found]
    return float(np.mean(gains)) if gains else None


def _row(
    name: str,
    measured: tuple[SetEffect, SetEffect],
    scope: str,
    planted: tuple[int, int, int],
    gain: float | None,
) -> Shown:
    towards, back = measured
    restored = towards.restored[scope]
    patched, band = towards.restored_control, towards.first_order_control
    return Shown(
        rule=name,
        n_latents=towards.n_latents,
        restored=restored.value,
        restored_low=restored.low,
        restored_high=restored.high,
        restored_control=None if patched is None else patched.mean,
        restored_p=None if patched is None else patched.p,
        closed=towards.first_order.value,
        control=None if band is None else band.mean,
        p=None if band is None else band.p,
        alike=None if band is None else band.magnitude,
        closed_back=back.first_order.value,
        control_back=None if back.first_order_control is None else back.first_order_control.mean,
        right_sign=planted[0],
        called=planted[1],
        n_planted=planted[2],
        gain=gain,
    )


def _print(rows: list[Shown]) -> None:
    heads = "restored | random, patched | by attribution | random (of its magnitude) | p | "
    heads += "back, by attribution | random | planted signs | called | own - shuffled"
    print(f"| rule | {heads} |\n|{'---|' * 11}")
    for row in rows:
        interval = f" ({_shown(row.restored_low)} to {_shown(row.restored_high)})"
        print(
            f"| {row.rule} | {_shown(row.restored)}{interval} | {_shown(row.restored_control)} | "
            f"{_shown(row.closed)} | {_shown(row.control)} ({_shown(row.alike)}) | "
            f"{_shown(row.p)} | {_shown(row.closed_back)} | {_shown(row.control_back)} | "
            f"{row.right_sign} of {row.n_planted} | {row.called} of {row.n_planted} | "
            f"{_shown(row.gain)} |"
        )


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main()
