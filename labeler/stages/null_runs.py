"""`difflens run --null-runs`: all null runs of a finished study, stored next to its result."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from crosscoder.isolation_rules import RULES, IsolationRule, stored_rule
from crosscoder.progress import Progress
from labeler.errors import UsageError
from labeler.report.comparisons import ActiveComparison, read_comparisons
from labeler.report.members import read_members
from labeler.report.statistics import read_category_nodes
from labeler.stages.base import StageContext
from labeler.stages.pipeline import StageReport, with_key
from labeler.stages.replicates import (
    Labelled,
    ReplicateStudy,
    null_runs_folder,
    permuted_null,
    run_replicate,
    seed_null,
)
from labeler.stages.train import configs, opened_store
from labeler.store.engine import read_session, write_session
from labeler.store.migrate import opened
from labeler.store.null_runs import NullRun, add_null_run
from labeler.store.schema import ReviewEvent
from labeler.store.taxonomies import load_version
from labeler.study.study_file import StudyFile, study_lock

if TYPE_CHECKING:
    from pathlib import Path


NAMES = ("model", "noisy-copy")


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
    store = noisy_copy_store(whole, model, section.noise, seed, NAMES, section.noise_tokens)
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


def run_null_runs(study: StudyFile, progress: Progress) -> Iterator[StageReport]:
    """Run the null runs of `[null_runs]` on a labelled study and store their results.

    The replicates are separate studies under artifacts/null-runs, whose finished stages are not
    repeated. Every null run is counted by the study's own rule and denominator.
    """
    with opened(study.database_url) as engine, study_lock(study):
        context = with_key(StageContext(study, engine, progress), "harvest")
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
            yield from run_replicate(replicate, self._context, self._context.progress)
            replicates.append(replicate)
        started = time.monotonic()
        notes = [self._store(facts, replicates) for facts in self._facts]
        yield StageReport("nulls", False, "; ".join(notes), time.monotonic() - started)
        if self._section.noise > 0:
            yield self._noise()

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
