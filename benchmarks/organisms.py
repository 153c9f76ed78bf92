"""How often each isolation rule says what a fine-tune did, on pairs whose truth was measured.

    python benchmarks/organisms.py WORK_FOLDER [--quick] [--seeds N] [--only NAME ...]

Each organism of `examples/organisms` is SmolLM2 with an adapter; `truth.json` says by generation
which behaviours went up, went down, or did not change. A study per organism and training seed reads
the demo's corpus; every latent that a rule may choose from is labelled once by the embedded judge.
Then each rule chooses its sides, and the randomisation over documents tests every category:

right_sign       share of the truly changed categories whose estimate has the true sign
distinguishable  share of them with the verdict `up` or `down`, in the true direction
false_calls      share of the truly unchanged categories with a verdict `up` or `down`

Undecided behaviours count nowhere. What is done in the work folder is not done again. Prints a
Markdown table and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from crosscoder.isolation import ComparisonSelection, isolate_comparison
from crosscoder.isolation_rules import IsolationRule, RankedRule, isolation_rule
from crosscoder.scaling import LatentScaling, load_scaling
from crosscoder.side_draws import draw_sides
from labeler.api import Study
from labeler.cli.demo import MINILM, SMOLLM2, fetch
from labeler.cli.demo import __file__ as demo_file
from labeler.progress import progress_for
from labeler.report.randomisation import RandomisedSides, read_randomised_sides
from labeler.report.statistics import CategoryNode, count_latents, read_category_nodes
from labeler.stages.isolate import SCALING_NAME
from labeler.store.engine import open_engine, read_session
from labeler.store.schema import ComparisonSetting, Run
from taxonomy.counts import CategoryChange, CategoryCounts
from taxonomy.randomisation import randomised_change_statistics

ORGANISMS = Path(__file__).parents[1] / "examples" / "organisms"
CORPUS = Path(demo_file).with_name("demo_assets") / "corpus.jsonl"
QUICK = 2
TOP = 100


class MagnitudeRule(RankedRule):
    """By decoder norms alone: the side is that of delta_norm, the strongest first."""

    kind: Any = "magnitude"

    def candidates(self, pair: Any, eligible: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Latents whose decoder row is longer in the target."""
        longer: NDArray[np.bool_] = eligible & (pair.delta_norm > 0.5)
        return longer

    def score(self, pair: Any, eligible: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Minus delta_norm."""
        return np.where(eligible, -pair.delta_norm, np.nan)


def rules() -> dict[str, IsolationRule]:
    """Every rule under its name in the table."""
    return {
        "strict": isolation_rule("strict"),
        "significant": isolation_rule("significant"),
        "ranked": isolation_rule("ranked", top=TOP),
        "magnitude": MagnitudeRule(top=TOP),
        "shifted": isolation_rule("shifted", top=TOP),
        "shifted by t": isolation_rule("shifted", top=TOP, order="t"),
        "shifted, q < .05": isolation_rule("shifted", top=TOP, max_q=0.05),
        "shifted, 40": isolation_rule("shifted", top=40),
        "shifted, 200": isolation_rule("shifted", top=200),
        "shifted, 400": isolation_rule("shifted", top=400),
    }


@dataclass
class Score:
    """Counts over organisms and seeds."""

    n_changed: int = 0
    n_right: int = 0
    n_distinguished: int = 0
    n_unchanged: int = 0
    n_false: int = 0

    def shares(self) -> dict[str, float | None]:
        """The three shares; None where nothing was to be said."""

        def share(count: int, total: int) -> float | None:
            return round(count / total, 4) if total else None

        return {
            "right_sign": share(self.n_right, self.n_changed),
            "distinguishable": share(self.n_distinguished, self.n_changed),
            "false_calls": share(self.n_false, self.n_unchanged),
        }


@dataclass(frozen=True)
class Truth:
    """What one organism measurably does, by category."""

    name: str
    adapter: Path
    verdicts: dict[str, str]
    """up, down or unchanged; categories about which nothing is known are left out."""


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    started = time.perf_counter()
    truths = [
        truth for truth in read_truths() if not arguments.only or truth.name in arguments.only
    ]
    if arguments.quick:
        truths = truths[:QUICK]
    scores = {name: Score() for name in rules()}
    rows = []
    for truth in truths:
        for seed in range(arguments.seeds):
            for rule, changes in measured(arguments.work, truth, seed, arguments.draws):
                add(scores[rule], truth, changes)
                rows += [
                    {"organism": truth.name, "seed": seed, "rule": rule, **_short(changes[each])}
                    for each in truth.verdicts
                    if each in changes
                ]
    _print(scores)
    print(
        json.dumps(
            {
                "rules": {name: asdict(each) | each.shares() for name, each in scores.items()},
                "organisms": [truth.name for truth in truths],
                "seeds": arguments.seeds,
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
    arguments = parser.parse_args()
    arguments.seeds = arguments.seeds or (1 if arguments.quick else 3)
    return arguments


def read_truths() -> list[Truth]:
    """The organisms whose adapter is there, with the truth about each category."""
    content = json.loads((ORGANISMS / "truth.json").read_text("utf-8"))
    behaviours = content["behaviours"]
    truths = []
    for name, organism in content["organisms"].items():
        adapter = ORGANISMS / "adapters" / name
        if adapter.is_dir():
            verdicts = {key: change["verdict"] for key, change in organism["changes"].items()}
            truths.append(Truth(name, adapter, by_category(behaviours, verdicts)))
    if not truths:
        sys.exit(f"{ORGANISMS}: no adapter; make one with `python examples/organisms/make.py all`")
    return truths


def by_category(behaviours: dict[str, Any], verdicts: dict[str, str]) -> dict[str, str]:
    """One verdict per category: of its behaviours that changed, where they agree.

    Unchanged where all of them are; left out where one is undecided and none changed, or where
    they contradict each other.
    """
    found: dict[str, set[str]] = {}
    for name, verdict in verdicts.items():
        category = behaviours[name]["category"]
        if category:
            found.setdefault(category, set()).add(verdict)
    told = {}
    for category, several in found.items():
        moved = several & {"up", "down"}
        if len(moved) == 1:
            told[category] = moved.pop()
        elif several == {"unchanged"}:
            told[category] = "unchanged"
    return told


def measured(
    work: Path, truth: Truth, seed: int, n_draws: int
) -> Iterator[tuple[str, dict[str, CategoryChange]]]:
    """The change table of every rule: rule, and changes by category."""
    study = Study.open(_written_study(work, truth, seed))
    study.run(last="categorize", progress=progress_for())
    with read_session(open_engine(study.file.database_url)) as session:
        setting = session.execute(select(ComparisonSetting)).scalars().first()
        assert setting is not None
        labels = read_randomised_sides(
            session, setting.comparison_id, setting.taxonomy_version_id, setting.judge_id
        )
        nodes = read_category_nodes(session, setting.taxonomy_version_id)
        newest = select(Run.stage_key).where(Run.kind == "isolate", Run.status == "done")
        key = session.execute(newest.order_by(Run.id.desc())).scalars().first()
    scaling = load_scaling(study.file.artifacts / "isolate" / str(key)[:16] / SCALING_NAME)
    assert labels is not None
    for name, rule in rules().items():
        sides = isolate_comparison(
            scaling.pair("organism", "base"), scaling.pair("base", "organism"), rule
        )
        yield name, _changes(scaling, sides, labels, nodes, n_draws, seed)


def _changes(
    scaling: LatentScaling,
    sides: ComparisonSelection,
    labels: RandomisedSides,
    nodes: Sequence[CategoryNode],
    n_draws: int,
    seed: int,
) -> dict[str, CategoryChange]:
    chosen = [side.latent_indices for side in (sides.target, sides.reference)]
    if not len(chosen[0]) or not len(chosen[1]):
        return {}
    draws = draw_sides(scaling, sides, n_draws=n_draws, seed=seed)
    drawn = RandomisedSides(
        draws.target[:, : len(chosen[0])],
        draws.reference[:, : len(chosen[1])],
        labels.shifts,
        labels.labels,
    )
    observed = RandomisedSides(
        chosen[0][None].astype(np.int32),
        chosen[1][None].astype(np.int32),
        labels.shifts,
        labels.labels,
    )
    empty = count_latents(nodes, [], [], "primary")
    counts = observed.counts(empty, "primary", "labelled")
    assert counts is not None
    table = [
        CategoryCounts(
            category=row.category,
            level=row.level,
            parent=row.parent,
            target_count=int(counts.target[0, i]),
            target_total=int(counts.target_total[0]),
            reference_count=int(counts.reference[0, i]),
            reference_total=int(counts.reference_total[0]),
        )
        for i, row in enumerate(empty)
    ]
    random = drawn.counts(table, "primary", "labelled")
    assert random is not None
    return {row.category: row for row in randomised_change_statistics(table, random)}


def add(score: Score, truth: Truth, changes: dict[str, CategoryChange]) -> None:
    """Count one table; a rule without latents says nothing, rightly where nothing changed."""
    for category, verdict in truth.verdicts.items():
        change = changes.get(category)
        called = change.verdict if change is not None else "no evidence"
        if verdict == "unchanged":
            score.n_unchanged += 1
            score.n_false += called in ("up", "down")
            continue
        score.n_changed += 1
        points = 0.0 if change is None else change.difference_points or 0.0
        score.n_right += points > 0 if verdict == "up" else points < 0
        score.n_distinguished += called == verdict


def _short(change: CategoryChange) -> dict[str, Any]:
    return {
        "category": change.category,
        "counts": f"{change.target_count}-{change.reference_count}",
        "p": round(change.p_value, 4),
        "q": round(change.q_value, 4),
        "verdict": change.verdict,
    }


def _written_study(work: Path, truth: Truth, seed: int) -> Path:
    """The study file of one organism and seed; studies of one organism share their harvest."""
    folder = work / truth.name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"seed{seed}.toml"
    model, embedder = fetch(SMOLLM2), fetch(MINILM)
    path.write_text(
        f"""\
[study]
name = "{truth.name}-{seed}"
seed = {seed}
[database]
url = "sqlite:///seed{seed}.db"
[[models]]
name = "base"
path = {json.dumps(str(model))}
[[models]]
name = "organism"
path = {json.dumps(str(model))}
adapter = {json.dumps(str(truth.adapter))}
[corpus]
path = {json.dumps(str(CORPUS))}
max_length = 256
[harvest]
layer = 22
batch_tokens = 1024
[train]
n_latents = 4096
k = 32
epochs = 10
batch_size = 2048
[isolate]
rule = "shifted"
top = {TOP}
[collect]
latents = "eligible"
[[comparison]]
name = "organism"
target = "organism"
reference = "base"
[judge]
kind = "evidence"
[embedding]
kind = "minilm"
path = {json.dumps(str(embedder))}
""",
        "utf-8",
    )
    return path


def _print(scores: dict[str, Score]) -> None:
    print("| rule | right sign | distinguishable | false calls |\n|---|---|---|---|")
    for name, score in scores.items():
        print(
            f"| {name} | {score.n_right} of {score.n_changed} | "
            f"{score.n_distinguished} of {score.n_changed} | "
            f"{score.n_false} of {score.n_unchanged} |"
        )


if __name__ == "__main__":
    main()
