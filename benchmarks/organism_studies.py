"""Studies of the organisms, and what every isolation rule says about each: see organisms.py."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, select, text

from crosscoder.checkpoints import load_crosscoder
from crosscoder.isolation import ComparisonSelection, isolate_comparison
from crosscoder.isolation_rules import IsolationRule, RankedRule, ShiftedRule, isolation_rule
from crosscoder.scaling import LatentScaling, load_scaling
from crosscoder.side_draws import draw_sides
from labeler.api import Study
from labeler.cli.demo import MINILM, SMOLLM2, fetch
from labeler.cli.demo import __file__ as demo_file
from labeler.judge.factory import judges_embedder, study_judge
from labeler.labeling.score import ScoreConfig, score_explanations
from labeler.progress import progress_for
from labeler.report.randomisation import (
    RandomisedSides,
    read_randomised_sides,
    weighted_shifts_of,
)
from labeler.report.statistics import CategoryNode, count_latents, read_category_nodes
from labeler.stages.isolate import SCALING_NAME
from labeler.store.engine import open_engine, read_session
from labeler.store.schema import ComparisonSetting, Latent, Run
from taxonomy.counts import ALPHA, CategoryChange, CategoryCounts
from taxonomy.mean_shift import mean_shifts_over_seeds
from taxonomy.randomisation import randomised_change_statistics

ORGANISMS = Path(__file__).parents[1] / "examples" / "organisms"
CORPUS = Path(demo_file).with_name("demo_assets") / "corpus.jsonl"
FLOOR = 0.05
"""Share of the base model's answers up to which a behaviour cannot be seen to fall."""
TOP = 100
SCORED = 50
"""Latents of each side whose explanations are scored, the first in rank."""
TEXTS = {
    "given": "",
    "both": 'answers = "both"\n',
    "prompts": "answer_tokens = 0\n",
    "first8": "answer_tokens = 8\n",
}
"""What the models read, as keys of `[corpus]`: the answers of the corpus, each model's own answers,
prompts without answers, or the first 8 tokens of the corpus's answers."""
MEAN_SHIFTS = ("mean shift", "mean shift against the rest", "weighted shift beside scrambles")
"""The mean shift of every eligible latent of a category: its interval lies above or below 0, or
above or below the mean of all other latents; weighted by activation and against the rest, it lies
outside of what scrambled fine-tunes show."""


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
        "changed": isolation_rule("changed", top=TOP),
        "changed, q < .05": isolation_rule("changed", top=TOP, max_q=0.05),
        "shifted, 40": isolation_rule("shifted", top=40),
        "shifted, 200": isolation_rule("shifted", top=200),
        "shifted, 400": isolation_rule("shifted", top=400),
    }


@dataclass(frozen=True)
class Called:
    """What is said about one category."""

    verdict: str
    change: float
    """Its sign is the direction."""
    counts: str
    p: float
    q: float


Sides = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class Measured:
    """One study: what every rule chose and said."""

    calls: Mapping[str, Mapping[str, Called]]
    """By rule, then by category."""
    table: Sequence[CategoryCounts]
    """The categories."""
    labels: RandomisedSides
    """The shift and the label of every latent."""
    sides: Mapping[str, Sides]
    """By rule: indices of the strengthened and the weakened latents."""
    gains: Mapping[int, float]
    """By latent index: detection score of its explanation less that of a shuffled one."""
    decoder: NDArray[np.float32]
    """(F, M*d) unit rows."""


@dataclass(frozen=True)
class Truth:
    """What one organism measurably does, by category."""

    name: str
    adapter: Path
    verdicts: dict[str, str]
    """up, down or unchanged; categories about which nothing is known are left out."""
    cannot_fall: frozenset[str]
    """Unchanged categories whose behaviours the base model hardly shows: a fall cannot be seen."""


def read_truths() -> list[Truth]:
    """The organisms whose adapter is there, with the truth about each category."""
    content = json.loads((ORGANISMS / "truth.json").read_text("utf-8"))
    behaviours = content["behaviours"]
    truths = []
    for name, organism in content["organisms"].items():
        adapter = ORGANISMS / "adapters" / name
        if adapter.is_dir():
            changes = organism["changes"]
            told = by_category(
                behaviours, {key: change["verdict"] for key, change in changes.items()}
            )
            shown = {
                behaviours[key]["category"]
                for key, change in changes.items()
                if change["before"] > FLOOR
            }
            floor = {each for each, verdict in told.items() if verdict == "unchanged"} - shown
            truths.append(Truth(name, adapter, told, frozenset(floor)))
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
    work: Path, truth: Truth, seed: int, n_draws: int, text_read: str = "given"
) -> Measured:
    """Run the study of one organism and training seed, and let every rule choose and test.

    `text_read` is a key of TEXTS.
    """
    study = Study.open(_written_study(work, truth, seed, text_read))
    study.run(last="categorize", progress=progress_for())
    engine = open_engine(study.file.database_url)
    labels, nodes = read_labels(engine)
    runs = {kind: done_run(engine, kind) for kind in ("train", "isolate", "label")}
    folders = {
        kind: study.file.artifacts / kind / str(run.stage_key)[:16] for kind, run in runs.items()
    }
    scaling = load_scaling(folders["isolate"] / SCALING_NAME)
    selections = {
        name: isolate_comparison(
            scaling.pair("organism", "base"), scaling.pair("base", "organism"), rule
        )
        for name, rule in rules().items()
    }
    sides = {
        name: (each.target.latent_indices, each.reference.latent_indices)
        for name, each in selections.items()
    }
    scored = np.concatenate([side[:SCORED] for both in sides.values() for side in both])
    calls = {
        name: _called(changes_of(scaling, each, labels, nodes, n_draws, seed))
        for name, each in selections.items()
    }
    return Measured(
        calls,
        count_latents(nodes, [], [], "primary"),
        labels,
        sides,
        explanation_gains(study, engine, runs["label"].id, scored),
        decoder_rows(folders["train"]),
    )


def done_run(engine: Engine, kind: str) -> Run:
    """The newest finished run of a stage."""
    query = select(Run).where(Run.kind == kind, Run.status == "done").order_by(Run.id.desc())
    with read_session(engine) as session:
        run = session.execute(query).scalars().first()
        assert run is not None
        return run


def read_labels(engine: Engine) -> tuple[RandomisedSides, Sequence[CategoryNode]]:
    """Every label of the study's first comparison, and the categories."""
    with read_session(engine) as session:
        setting = session.execute(select(ComparisonSetting)).scalars().first()
        assert setting is not None
        labels = read_randomised_sides(
            session, setting.comparison_id, setting.taxonomy_version_id, setting.judge_id
        )
        assert labels is not None
        return labels, read_category_nodes(session, setting.taxonomy_version_id)


def explanation_gains(
    study: Study, engine: Engine, run_id: int, indices: Collection[int]
) -> dict[int, float]:
    """Score the explanations of some latents, own and shuffled; the difference by latent."""
    with read_session(engine) as session:
        rows = session.execute(select(Latent.id, Latent.latent_index)).all()
    places = {row.id: row.latent_index for row in rows}
    wanted = {int(each) for each in indices}
    latents = [latent for latent, place in places.items() if place in wanted]
    judge = study_judge(study.file, judges_embedder(study.file))
    config = ScoreConfig(methods=("detection",))
    score_explanations(engine, judge, run_id, latents, config, progress_for())
    found: dict[tuple[int, bool], float] = {}
    with read_session(engine) as session:
        for row in session.execute(text(_SCORES)):
            found[row.latent_id, bool(row.is_shuffled)] = row.balanced_accuracy
    return {
        places[latent]: own - found[latent, True]
        for (latent, is_shuffled), own in found.items()
        if not is_shuffled and (latent, True) in found
    }


_SCORES = """
SELECT latent_id, is_shuffled, balanced_accuracy FROM v_explanation_score
WHERE method = 'detection' AND balanced_accuracy IS NOT NULL
"""


def decoder_rows(folder: Path) -> NDArray[np.float32]:
    """(F, M*d) decoder rows of a crosscoder over all models, of length 1."""
    rows: NDArray[np.float32] = load_crosscoder(folder).W_dec.detach().flatten(1).float().numpy()
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def changes_of(
    scaling: LatentScaling,
    sides: ComparisonSelection,
    labels: RandomisedSides,
    nodes: Sequence[CategoryNode],
    n_draws: int,
    seed: int,
) -> list[CategoryChange]:
    """What the randomisation over documents says about every category with these sides."""
    chosen = [side.latent_indices for side in (sides.target, sides.reference)]
    if not len(chosen[0]) or not len(chosen[1]):
        return []
    draws = draw_sides(scaling, sides, n_draws=n_draws, seed=seed)
    rule = sides.target.rule
    drawn = RandomisedSides(
        draws.target[:, : len(chosen[0])],
        draws.reference[:, : len(chosen[1])],
        labels.shifts,
        labels.labels,
        squares=labels.squares,
        scrambled=labels.scrambled,
        is_by_score=isinstance(rule, ShiftedRule) and rule.order == "score",
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
    return randomised_change_statistics(table, random)


def _called(changes: Sequence[CategoryChange]) -> dict[str, Called]:
    return {
        row.category: Called(
            row.verdict,
            row.difference_points or 0.0,
            f"{row.target_count}-{row.reference_count}",
            round(row.p_value, 4),
            round(row.q_value, 4),
        )
        for row in changes
    }


def mean_shift_calls(studies: Sequence[Measured]) -> dict[str, dict[str, Called]]:
    """What the mean shifts say: as they are, against all other latents, and beside scrambles.

    Of several studies, the seeds of one organism, over the seeds together.
    """
    table = studies[0].table
    seeds = [study.labels.shifts_of(study.table, "primary", "labelled") for study in studies]
    rows = mean_shifts_over_seeds(seeds, [row.level for row in table])
    beside = weighted_shifts_of(
        [(study.labels, study.table) for study in studies], "primary", "labelled"
    )
    calls = (
        [_shift(row.n_shifted, row.mean_shift, row.mean_shift_p, row.mean_shift_q) for row in rows],
        [
            _shift(row.n_shifted, row.relative_shift, row.relative_shift_p, row.relative_shift_q)
            for row in rows
        ],
        [
            _shift(mean.n_shifted, row.excess, row.weighted_shift_p, row.weighted_shift_q)
            for mean, row in zip(rows, beside, strict=True)
        ],
    )
    return {
        name: {counts.category: call for counts, call in zip(table, each, strict=True)}
        for name, each in zip(MEAN_SHIFTS, calls, strict=True)
    }


def _shift(n_shifted: int, shift: float | None, p_value: float, q_value: float | None) -> Called:
    if shift is None or q_value is None:
        return Called("no evidence", 0.0, str(n_shifted), 1.0, 1.0)
    verdict = "no evidence" if q_value >= ALPHA else "up" if shift > 0 else "down"
    return Called(verdict, shift, str(n_shifted), round(p_value, 4), round(q_value, 4))


def _written_study(work: Path, truth: Truth, seed: int, text_read: str) -> Path:
    """The study file of one organism and seed; those of one organism and text share a harvest.

    In bfloat16, which processors with such instructions read several times as fast. The base
    model's answers are the same for all organisms, so they share a folder of answers.
    """
    folder = work / (truth.name if text_read == "given" else f"{truth.name}-{text_read}")
    answers = folder / "artifacts" / "answers"
    answers.parent.mkdir(parents=True, exist_ok=True)
    (work / "answers").mkdir(exist_ok=True)
    if not answers.exists():
        answers.symlink_to((work / "answers").resolve(), target_is_directory=True)
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
dtype = "bfloat16"
[[models]]
name = "organism"
path = {json.dumps(str(model))}
dtype = "bfloat16"
adapter = {json.dumps(str(truth.adapter))}
[corpus]
path = {json.dumps(str(CORPUS))}
max_length = 256
{TEXTS[text_read]}[harvest]
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
