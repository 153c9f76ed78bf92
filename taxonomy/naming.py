"""Names of clusters: asked several times about different members, and the most central one kept.

A name is contrastive: whoever names sees the members and the nearest texts that do not belong
(Clio, arXiv 2412.13678). Of several names the medoid by embedding is taken, the one most like the
others, so that one odd answer names nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from taxonomy.errors import InputError
from taxonomy.mapping import normalise_rows
from taxonomy.tree import CategoryName

if TYPE_CHECKING:
    from taxonomy.clustering import Clustering

Level = Literal[1, 2]


@dataclass(frozen=True)
class NamingTask:
    """One question for a name."""

    level: Level
    """2 for a cluster of explanations, 1 for a group of categories."""
    cluster: int
    sample: int
    """Which of several questions about the same cluster."""
    size: int
    """Members of the whole cluster."""
    members: tuple[str, ...]
    outsiders: tuple[str, ...]
    """Like texts that do not belong, nearest first."""


Naming = Callable[[Sequence[NamingTask]], Sequence["CategoryName | None"]]
"""Answers each task in order; None where there was no answer."""

Embedding = Callable[[Sequence[str]], npt.ArrayLike]
"""Vectors (n, e) of texts."""


@dataclass(frozen=True)
class NamingPlan:
    """How clusters are shown to whoever names them."""

    n_samples: int = 3
    n_members: int = 10
    n_outsiders: int = 5
    seed: int = 0


def naming_tasks(
    clustering: Clustering, texts: Sequence[str], clusters: Sequence[int], plan: NamingPlan
) -> list[NamingTask]:
    """The questions about some clusters of texts, `plan.n_samples` about each.

    The first shows the medoid and the members nearest to it in order, the others a random choice
    in random order; a cluster that fits into one question as a whole is shuffled only.
    """
    tasks = []
    for number in clusters:
        members = distinct_members(clustering, texts, number)
        outsiders = tuple(dict.fromkeys(texts[row] for row in clustering.outsiders[number]))
        generator = np.random.default_rng([plan.seed, number])
        for sample in range(plan.n_samples):
            order = np.arange(len(members)) if sample == 0 else generator.permutation(len(members))
            tasks.append(
                NamingTask(
                    level=2,
                    cluster=number,
                    sample=sample,
                    size=int((clustering.labels == number).sum()),
                    members=tuple(members[row] for row in order[: plan.n_members]),
                    outsiders=outsiders[: plan.n_outsiders],
                )
            )
    return tasks


def distinct_members(clustering: Clustering, texts: Sequence[str], cluster: int) -> list[str]:
    """Texts of a cluster, its medoid first, each once."""
    inside = clustering.members(cluster)
    medoid = texts[clustering.medoids[cluster]]
    return list(dict.fromkeys([medoid, *(texts[row] for row in inside)]))


def chosen_names(
    tasks: Sequence[NamingTask], naming: Naming, embed: Embedding
) -> dict[int, CategoryName]:
    """Ask all tasks and keep one name a cluster; a cluster without any answer is left out.

    Raises InputError where `naming` answers another number of tasks than it was asked.
    """
    answers = list(naming(tasks))
    if len(answers) != len(tasks):
        raise InputError(f"{len(answers)} names came back for {len(tasks)} questions")
    by_cluster: dict[int, list[CategoryName]] = {}
    for task, answer in zip(tasks, answers, strict=True):
        if answer is not None and answer.name.strip():
            by_cluster.setdefault(task.cluster, []).append(answer)
    return {number: medoid_name(names, embed) for number, names in by_cluster.items()}


def medoid_name(names: Sequence[CategoryName], embed: Embedding) -> CategoryName:
    """The name most like the others by mean cosine of their descriptions; the first of equals."""
    if len({name.description for name in names}) <= 1 or len(names) <= 2:
        return names[0]
    rows = normalise_rows(embed([name.description for name in names]))
    closeness = np.round((rows @ rows.T).sum(axis=1), 9)
    return names[int(np.argmax(closeness))]
