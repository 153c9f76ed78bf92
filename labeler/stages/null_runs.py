"""`difflens run --null-runs`: the finished study again where nothing, or nothing known, differs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from sqlalchemy.orm import Session

from crosscoder.isolation_rules import RULES, IsolationRule, stored_rule
from crosscoder.progress import Progress
from labeler.errors import UsageError
from labeler.judge.budget import Limits, Spending
from labeler.report.comparisons import ActiveComparison, Member, read_comparisons, read_members
from labeler.report.statistics import CategoryNode, count_latents, read_category_nodes
from labeler.stages.base import StageContext
from labeler.stages.derived_studies import (
    ReplicateStudy,
    null_runs_folder,
    run_null_study,
    run_replicate,
)
from labeler.stages.pipeline import StageReport, with_key
from labeler.stages.train import configs, opened_store
from labeler.store.comparisons import NullChange, NullKind, NullRun, add_null_run
from labeler.store.engine import read_session, write_session
from labeler.store.migrate import opened
from labeler.store.schema import ReviewEvent
from labeler.store.taxonomies import load_version
from labeler.study.study_file import StudyFile, study_lock
from taxonomy.change import change_statistics
from taxonomy.counts import ALPHA, CategoryChange, ExactTest

NOISY_PAIR = ("model", "noisy-copy")


@dataclass(frozen=True)
class Labelled:
    """The two sides of one comparison by one crosscoder, in the study's denominator."""

    target: tuple[Member, ...]
    reference: tuple[Member, ...]


def permuted_null(
    observed: Labelled,
    nodes: Sequence[CategoryNode],
    n_draws: int,
    seed: int,
    test: ExactTest = "fisher",
    alpha: float = ALPHA,
) -> NullRun:
    """Deal the labelled latents to the two sides at random, as many to each as there are."""
    pool = [*observed.target, *observed.reference]
    n_target = len(observed.target)
    generator = np.random.default_rng(seed)
    draws = []
    for _ in range(n_draws):
        order = generator.permutation(len(pool)).tolist()
        dealt = [pool[index] for index in order]
        draws.append(_changes(nodes, dealt[:n_target], dealt[n_target:], test, alpha))
    title = "The sides dealt at random over the labelled latents"
    return _null_run(
        "permuted",
        title,
        draws,
        draws,
        _changes(nodes, observed.target, observed.reference, test, alpha),
    )


def seed_null(
    observed: Labelled,
    runs: Sequence[Labelled],
    nodes: Sequence[CategoryNode],
    test: ExactTest = "fisher",
    alpha: float = ALPHA,
) -> NullRun:
    """One side of a crosscoder against the same side of another with another seed.

    Every two of `runs`, and both sides. Which of the two comes first means nothing: verdicts are
    counted once, changes are taken both ways round.
    """
    pairs = [
        sides
        for one, other in combinations(runs, 2)
        for sides in ((one.target, other.target), (one.reference, other.reference))
    ]
    once = [_changes(nodes, first, second, test, alpha) for first, second in pairs]
    back = [_changes(nodes, second, first, test, alpha) for first, second in pairs]
    title = f"One side against itself, by {len(runs)} crosscoders of the same models"
    return _null_run(
        "seed",
        title,
        once,
        once + back,
        _changes(nodes, observed.target, observed.reference, test, alpha),
    )


def _changes(
    nodes: Sequence[CategoryNode],
    target: Sequence[Member],
    reference: Sequence[Member],
    test: ExactTest,
    alpha: float,
) -> list[CategoryChange]:
    counts = count_latents(nodes, target, reference, "primary")
    return change_statistics(counts, alpha, test, detectable=False)


def _null_run(
    kind: NullKind,
    title: str,
    tested: Sequence[Sequence[CategoryChange]],
    changed: Sequence[Sequence[CategoryChange]],
    observed: Sequence[CategoryChange],
) -> NullRun:
    rows = [row for draw in tested for row in draw if row.target_count + row.reference_count]
    return NullRun(
        kind=kind,
        title=title,
        n_draws=len(tested),
        n_called=sum(row.verdict in ("up", "down") for row in rows),
        n_tested=len(rows),
        changes=tuple(
            _null_change(seen, [draw[index] for draw in changed])
            for index, seen in enumerate(observed)
            if seen.target_count + seen.reference_count
        ),
    )


def _null_change(observed: CategoryChange, draws: Sequence[CategoryChange]) -> NullChange:
    percents = sorted(value for value in map(_percent, draws) if value is not None)
    low = _quantile(percents, 0.025, "lower")
    high = _quantile(percents, 0.975, "higher")
    distance = abs(observed.difference_points or 0.0)
    far = [abs(row.difference_points or 0.0) >= distance - 1e-9 for row in draws]
    return NullChange(
        category=observed.category,
        low=None if low == math.inf else low,
        high=None if high == math.inf else high,
        share_as_far=sum(far) / len(far) if far else None,
    )


def _percent(row: CategoryChange) -> float | None:
    """The percentage change; infinite where only the target has the category."""
    if row.reference_count == 0:
        return math.inf if row.target_count else None
    return row.percent_change


def _quantile(ascending: Iterable[float], share: float, side: str) -> float | None:
    """An order statistic, so that infinite values need no arithmetic."""
    values = list(ascending)
    if not values:
        return None
    position = share * (len(values) - 1)
    return values[math.floor(position) if side == "lower" else math.ceil(position)]


def noise_null(context: StageContext, model: str, folder: Path) -> NullRun:
    """Train on one model and its noisy copy with the study's settings; isolate by thresholds.

    The two decoders are initialised separately, so that nothing is equal by construction.
    """
    from crosscoder.activations import ActivationStore
    from crosscoder.checkpoints import load_crosscoder
    from crosscoder.isolation import select_latents
    from crosscoder.memory_store import noisy_copy_store
    from crosscoder.scaling import latent_scaling
    from crosscoder.train import train

    section = context.study.config.null_runs
    seed = context.study.config.study.seed
    whole = opened_store(context)
    if not isinstance(whole, ActivationStore):
        raise UsageError(
            "null_runs.noise: the activations of this study are streamed, not stored; set it to 0"
        )
    store = noisy_copy_store(whole, model, section.noise, seed, NOISY_PAIR, section.noise_tokens)
    crosscoder_config, train_config = configs(context, store)
    changes = {"same_init": False, "layer": None, "tokenizer_sha256": None}
    train(
        store,
        crosscoder_config.model_copy(update=changes),
        train_config,
        folder,
        context.progress,
    )
    n_blocks = context.study.config.isolate.n_blocks
    scaling = latent_scaling(load_crosscoder(folder), store, n_blocks, context.progress)
    rules = _threshold_rules(context)
    counts = [
        (len(select_latents(pair, rule).latent_indices), int(rule.eligible(pair).sum()))
        for pair in scaling.pairs.values()
        for rule in rules
    ]
    return NullRun(
        kind="noise",
        title=(
            f"{model} against a copy of itself with noise of {section.noise:g} of its spread: "
            f"latents isolated by {' or '.join(rule.kind for rule in rules)}"
        ),
        n_draws=1,
        n_called=sum(called for called, _ in counts),
        n_tested=sum(eligible for _, eligible in counts),
    )


def _threshold_rules(context: StageContext) -> list[IsolationRule]:
    """The rules that may choose nothing, each with the study's own settings."""
    settings = context.study.config.isolate.model_dump()
    kinds = [kind for kind in RULES.names() if RULES.get(kind).has_thresholds]
    return [stored_rule(kind, settings) for kind in kinds]


def run_null_runs(
    study: StudyFile, progress: Progress, limits: Limits | None = None
) -> Iterator[StageReport]:
    """Run the null runs of `[null_runs]` on a labelled study and store their results.

    The replicates are separate studies under artifacts/null-runs, whose finished stages are not
    repeated. Every null run is counted by the study's own rule and denominator, and what its judge
    uses towards the study's own limits.
    """
    with opened(study.database_url) as engine, study_lock(study):
        spending = Spending(limits or Limits())
        context = with_key(StageContext(study, engine, progress, spending=spending), "harvest")
        yield from _Nulls(context).run()


class _Nulls:
    """All null runs of one study."""

    def __init__(self, context: StageContext) -> None:
        self._context = context
        self._study = context.study
        self._section = context.study.config.null_runs
        named = context.study.config.comparison
        with read_session(context.engine) as session:
            # Imported comparisons have no models that a null run could train on again.
            self._facts = [
                facts
                for facts in read_comparisons(session, named)
                if facts.comparison.name in {row.name for row in named}
            ]

    def run(self) -> Iterator[StageReport]:
        """Run all steps, with one report per step."""
        replicates = []
        for number in range(1, self._section.seeds + 1):
            with read_session(self._context.engine) as session:
                taxonomy = load_version(session, self._facts[0].version.id)
            replicate = ReplicateStudy(self._study, number, taxonomy)
            yield from run_replicate(replicate, self._context)
            replicates.append(replicate)
        started = time.monotonic()
        notes = [self._store(facts, replicates) for facts in self._facts]
        yield StageReport("nulls", False, "; ".join(notes), time.monotonic() - started)
        if self._section.noise > 0:
            yield self._noise()
        yield from self._differences()

    def _store(self, facts: ActiveComparison, replicates: list[ReplicateStudy]) -> str:
        name = facts.comparison.name
        with read_session(self._context.engine) as session:
            nodes = read_category_nodes(session, facts.version.id)
            observed = self._labelled(session, facts)
            is_reviewed = session.query(ReviewEvent.id).first() is not None
        # Replicates have judge labels only, so reviewed labels would not be comparable with them.
        runs = [] if is_reviewed else [observed]
        runs += [self._replicate_labels(replicate, name) for replicate in replicates]
        test = self._study.config.report.test
        nulls: list[NullRun] = []
        if self._section.permutations:
            seed = self._study.config.study.seed
            permutations = self._section.permutations
            nulls.append(permuted_null(observed, nodes, permutations, seed, test))
        if len(runs) > 1:
            nulls.append(seed_null(observed, runs, nodes, test))
        self._write(facts, nulls)
        return ", ".join(
            f"{name}, {null.kind}: {null.n_called} of {null.n_tested} called up or down"
            for null in nulls
        )

    def _labelled(self, session: Session, facts: ActiveComparison) -> Labelled:
        members = read_members(session, facts)
        denominator = self._study.config.report.denominator
        target, reference = (
            tuple(member for member in side if member.is_in(denominator))
            for side in (members.target, members.reference)
        )
        return Labelled(target, reference)

    def _replicate_labels(self, replicate: ReplicateStudy, name: str) -> Labelled:
        with opened(replicate.database_url) as engine, read_session(engine) as session:
            facts = next(
                facts
                for facts in read_comparisons(session, self._study.config.comparison)
                if facts.comparison.name == name
            )
            return self._labelled(session, facts)

    def _noise(self) -> StageReport:
        started = time.monotonic()
        messages = []
        for facts in self._facts:
            row = next(
                row for row in self._study.config.comparison if row.name == facts.comparison.name
            )
            folder = null_runs_folder(self._study) / f"noise-{row.reference}"
            null = noise_null(self._context, row.reference, folder)
            self._write(facts, [null])
            messages.append(f"{null.title}: {null.n_called} of {null.n_tested}")
        return StageReport("noise", False, "; ".join(messages), time.monotonic() - started)

    def _differences(self) -> Iterator[StageReport]:
        from labeler.stages.difference_nulls import difference_nulls, null_of

        with read_session(self._context.engine) as session:
            taxonomy = load_version(session, self._facts[0].version.id)
        started = time.monotonic()
        for kind, study, title in difference_nulls(self._context, taxonomy):
            yield from run_null_study(study, kind, self._context)
            messages = []
            for facts in self._facts:
                null = null_of(kind, study, title, facts.comparison.name)
                self._write(facts, [null])
                messages.append(
                    f"{null.title}: {null.n_called} of {null.n_tested} called up or down, "
                    f"{null.n_shifts_called} of {null.n_shifts_tested} mean shifts"
                )
            yield StageReport(kind, False, "; ".join(messages), time.monotonic() - started)
            started = time.monotonic()

    def _write(self, facts: ActiveComparison, nulls: list[NullRun]) -> None:
        settings = {
            **self._section.model_dump(mode="json"),
            "seed": self._study.config.study.seed,
            "denominator": self._study.config.report.denominator,
            "test": self._study.config.report.test,
        }
        with write_session(self._context.engine) as session:
            for null in nulls:
                add_null_run(session, facts.comparison.id, null, settings)
