"""Null runs that repeat the study: another training seed, and sides permuted at random."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import yaml

from crosscoder.progress import Progress
from labeler.errors import WorkError
from labeler.report.members import Member
from labeler.report.statistics import CategoryNode, count_latents
from labeler.stages.base import StageContext
from labeler.stages.pipeline import StageReport, run_study, with_key
from labeler.store.database_url import url_of_file
from labeler.store.null_runs import NullChange, NullKind, NullRun
from labeler.study.study_file import StudyConfig, StudyFile
from taxonomy.change import change_statistics
from taxonomy.counts import CategoryChange
from taxonomy.settings import ALPHA, ExactTest
from taxonomy.tree import Taxonomy

LAST_STAGE = "categorize"
FOLDER, FORMER_FOLDER = "null-runs", "thorough"


def null_runs_folder(study: StudyFile) -> Path:
    """Folder of the null runs' artifacts; one with the earlier name is used again."""
    former = study.artifacts / FORMER_FOLDER
    return former if former.is_dir() else study.artifacts / FOLDER


class ReplicateStudy(StudyFile):
    """A copy of the study `original` with its own seed, database and artifacts."""

    def __init__(self, original: StudyFile, number: int, taxonomy: Taxonomy) -> None:
        self._home = null_runs_folder(original) / f"seed-{number}"
        self.number = number
        self._taxonomy = taxonomy
        super().__init__(original.path, self._config_of(original.config))

    @property
    def artifacts(self) -> Path:
        """Folder of the replicate's products, inside the original's."""
        return self._home

    def prepare(self, harvest: Path, context: StageContext) -> None:
        """Write the taxonomy; use the original's activations: a seed does not change them.

        A study that streams has none: its replicates let the models read again.
        """
        self._home.mkdir(parents=True, exist_ok=True)
        content = self._taxonomy.model_dump(mode="json", exclude_none=True)
        self._taxonomy_file.write_text(
            yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8"
        )
        link = with_key(context, "harvest").folder("harvest")
        if link.exists() or not harvest.exists():
            return
        link.parent.mkdir(parents=True, exist_ok=True)
        try:
            link.symlink_to(harvest, target_is_directory=True)
        except OSError as error:
            raise WorkError(f"{link}: no link to the activations: {error.strerror}") from None

    @property
    def _taxonomy_file(self) -> Path:
        return self._home / "taxonomy.yaml"

    def _config_of(self, config: StudyConfig) -> StudyConfig:
        changes = {
            "study": config.study.model_copy(update={"seed": config.study.seed + self.number}),
            "database": config.database.model_copy(
                update={"url": url_of_file(self._home / "difflens.db")}
            ),
            "taxonomy": config.taxonomy.model_copy(
                update={"mode": "seed", "file": str(self._taxonomy_file)}
            ),
            "judges": (),
            "scores": config.scores.model_copy(update={"controls": 0, "methods": ()}),
        }
        return config.model_copy(update=changes)


def run_replicate(
    study: ReplicateStudy, original: StageContext, progress: Progress
) -> Iterator[StageReport]:
    """Run the replicate up to its labels, going on from what an interrupted run left."""
    context = replace(original, study=study, keys={})
    study.prepare(with_key(original, "harvest").folder("harvest"), context)
    for report in run_study(study, progress, last=LAST_STAGE):
        yield replace(report, stage=f"seed {study.config.study.seed}, {report.stage}")


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
