"""A taxonomy made from explanations: clustered, named, consolidated, grouped.

A name is contrastive: whoever names sees the members and the nearest texts that do not belong
(Clio, arXiv 2412.13678). A cluster is named several times from different members, and the medoid
of the names by embedding is taken, the one most like the others: one odd answer names nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from taxonomy.clustering import (
    MOST_GROUPS,
    Clustering,
    ThresholdSweep,
    average_linkage,
    canonicalise,
    centred,
    clustering_of,
    group_leaves,
    sweep_thresholds,
)
from taxonomy.counts import ClusterSettings
from taxonomy.errors import InputError
from taxonomy.mapping import Vectors, normalise_rows
from taxonomy.tree import CategoryName

Level = Literal[1, 2]
Embedding = Callable[[Sequence[str]], npt.ArrayLike]
"""Vectors (n, e) of texts."""
Pair = tuple[int, int]
"""Positions of two categories, the lower one first."""
SHOWN_EXAMPLES = 5
"""Members shown with a category when it is compared with another."""


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


@dataclass(frozen=True)
class PairTask:
    """One question: are these two categories the same?"""

    first: CategoryName
    second: CategoryName
    first_examples: tuple[str, ...]
    second_examples: tuple[str, ...]
    similarity: float
    """Cosine of what the two are made of."""


Merging = Callable[[Sequence[PairTask]], Sequence[bool]]
"""Answers each task in order: True where the two are one category."""


def candidate_pairs(
    vectors: npt.ArrayLike, *, least_similarity: float, most_per_category: int = 5
) -> dict[Pair, float]:
    """Pairs of categories (k, e) worth a question, with their cosine.

    A category is paired with its nearest ones, at most `most_per_category`, none of them below
    `least_similarity`.
    """
    rows = normalise_rows(vectors)
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -np.inf)
    pairs: dict[Pair, float] = {}
    for number, row in enumerate(similarity):
        for other in np.argsort(-row, kind="stable")[:most_per_category]:
            if row[other] >= least_similarity:
                pair = (min(number, int(other)), max(number, int(other)))
                pairs[pair] = float(row[other])
    return pairs


def complete_groups(n: int, same: Mapping[Pair, float]) -> list[tuple[int, ...]]:
    """Groups of n categories by complete linkage over the pairs judged the same.

    The most similar pairs are merged first; groups come in order of their first category.
    """
    group_of = list(range(n))
    groups: dict[int, set[int]] = {number: {number} for number in range(n)}
    for first, second in sorted(same, key=lambda pair: (-same[pair], pair)):
        a, b = group_of[first], group_of[second]
        if a == b or not _all_same(groups[a], groups[b], same):
            continue
        groups[a] |= groups.pop(b)
        for number in groups[a]:
            group_of[number] = a
    return sorted(tuple(sorted(group)) for group in groups.values())


def consolidate(
    names: Sequence[CategoryName],
    examples: Sequence[tuple[str, ...]],
    vectors: npt.ArrayLike,
    merging: Merging,
    *,
    least_similarity: float,
) -> list[tuple[int, ...]]:
    """Groups of categories that are one; most are groups of one."""
    if len(names) < 2:
        return [(number,) for number in range(len(names))]
    candidates = candidate_pairs(vectors, least_similarity=least_similarity)
    pairs = sorted(candidates, key=lambda pair: (-candidates[pair], pair))
    tasks = [
        PairTask(names[a], names[b], examples[a], examples[b], candidates[(a, b)]) for a, b in pairs
    ]
    answers = list(merging(tasks)) if tasks else []
    if len(answers) != len(tasks):
        raise InputError(f"{len(answers)} answers came back for {len(tasks)} pairs")
    same = {pair: candidates[pair] for pair, is_same in zip(pairs, answers, strict=True) if is_same}
    return complete_groups(len(names), same)


def _all_same(first: set[int], second: set[int], same: Mapping[Pair, float]) -> bool:
    return all((min(a, b), max(a, b)) in same for a in first for b in second)


class InductionConfig(ClusterSettings):
    """How a taxonomy is made; the distance is that between centred vectors."""

    merge_similarity: float = 0.5
    """Cosine of two clusters' centres from which they are judged for being one."""
    most_groups: int = MOST_GROUPS
    naming: NamingPlan = NamingPlan()
    seed: int = 0


@dataclass(frozen=True)
class InducedCategory:
    """A category with the texts that it comes from."""

    name: CategoryName
    members: tuple[int, ...]
    """Given texts, in order."""
    examples: tuple[str, ...]
    """Canonical texts of the members, the most central first."""
    group: int | None
    """Its group; None where it stands alone or there is no first level."""


@dataclass(frozen=True)
class Induction:
    """What was made of the texts."""

    categories: tuple[InducedCategory, ...]
    """Largest first."""
    groups: tuple[CategoryName, ...]
    left_out: tuple[int, ...]
    """Given texts that belong to no category."""
    distance: float
    sweep: ThresholdSweep | None

    @property
    def coverage(self) -> float:
        """Share of the texts that a category was made from."""
        n_inside = sum(len(category.members) for category in self.categories)
        n = n_inside + len(self.left_out)
        return n_inside / n if n else 0.0


@dataclass(frozen=True)
class _Leaf:
    name: CategoryName
    rows: npt.NDArray[np.int64]
    """Canonical texts."""
    examples: tuple[str, ...]


def induce(
    texts: Sequence[str],
    embed: Embedding,
    naming: Naming,
    merging: Merging,
    config: InductionConfig | None = None,
) -> Induction:
    """Make categories from explanations; there may be none.

    Raises InputError for too few different texts to choose a distance from, where none is given.
    """
    config = config or InductionConfig()
    canonical = canonicalise(texts)
    rows = centred(embed(canonical.texts)) if canonical.texts else np.zeros((0, 1))
    counts = np.bincount(canonical.of, minlength=len(canonical.texts))
    distance, sweep = _distance(rows, config)
    if not len(rows):
        return Induction((), (), (), distance, sweep)
    clustering = clustering_of(rows, average_linkage(rows).cut(distance))
    leaves = _named_leaves(clustering, canonical.texts, counts, embed, naming, config)
    leaves = _consolidate_leaves(leaves, rows, canonical.texts, embed, naming, merging, config)
    leaves.sort(key=lambda leaf: (-int(counts[leaf.rows].sum()), leaf.rows[0]))
    group_of, groups = _first_level(leaves, rows, embed, naming, config)
    owner = {row: number for number, leaf in enumerate(leaves) for row in leaf.rows.tolist()}
    members: list[list[int]] = [[] for _ in leaves]
    left_out: list[int] = []
    for given, row in enumerate(canonical.of):
        (members[owner[row]] if row in owner else left_out).append(given)
    return Induction(
        categories=tuple(
            InducedCategory(leaf.name, tuple(members[number]), leaf.examples, group_of[number])
            for number, leaf in enumerate(leaves)
        ),
        groups=groups,
        left_out=tuple(left_out),
        distance=distance,
        sweep=sweep,
    )


def _distance(rows: Vectors, config: InductionConfig) -> tuple[float, ThresholdSweep | None]:
    if config.cluster_distance is not None:
        return config.cluster_distance, None
    sweep = sweep_thresholds(rows, seed=config.seed, min_members=config.min_members)
    return sweep.threshold, sweep


def _named_leaves(
    clustering: Clustering,
    texts: Sequence[str],
    counts: npt.NDArray[np.int64],
    embed: Embedding,
    naming: Naming,
    config: InductionConfig,
) -> list[_Leaf]:
    """Clusters of enough texts that somebody could name."""
    sizes = np.bincount(clustering.labels, weights=counts)
    large = [int(number) for number in np.flatnonzero(sizes >= config.min_members)]
    names = chosen_names(naming_tasks(clustering, texts, large, config.naming), naming, embed)
    return [
        _Leaf(
            names[number],
            clustering.members(number),
            tuple(distinct_members(clustering, texts, number)),
        )
        for number in large
        if number in names
    ]


def _consolidate_leaves(
    leaves: list[_Leaf],
    rows: Vectors,
    texts: Sequence[str],
    embed: Embedding,
    naming: Naming,
    merging: Merging,
    config: InductionConfig,
) -> list[_Leaf]:
    """Merge leaves of the same meaning and name the merged ones again."""
    groups = consolidate(
        [leaf.name for leaf in leaves],
        [leaf.examples[:SHOWN_EXAMPLES] for leaf in leaves],
        _centres(leaves, rows),
        merging,
        least_similarity=config.merge_similarity,
    )
    kept = [leaves[group[0]] for group in groups if len(group) == 1]
    unions = [[leaves[number] for number in group] for group in groups if len(group) > 1]
    if not unions:
        return kept
    labels = np.full(len(rows), len(unions), dtype=np.int64)
    for number, union in enumerate(unions):
        labels[np.concatenate([leaf.rows for leaf in union])] = number
    whole = clustering_of(rows, labels)
    wanted = list(range(len(unions)))
    names = chosen_names(naming_tasks(whole, texts, wanted, config.naming), naming, embed)
    return kept + [
        _Leaf(
            names.get(number, max(union, key=lambda leaf: len(leaf.rows)).name),
            whole.members(number),
            tuple(distinct_members(whole, texts, number)),
        )
        for number, union in enumerate(unions)
    ]


def _first_level(
    leaves: Sequence[_Leaf],
    rows: Vectors,
    embed: Embedding,
    naming: Naming,
    config: InductionConfig,
) -> tuple[list[int | None], tuple[CategoryName, ...]]:
    """Group of each leaf and the groups' names; a leaf alone in its group has none."""
    alone: list[int | None] = [None] * len(leaves)
    if not leaves:
        return alone, ()
    labels = group_leaves(_centres(leaves, rows), most_groups=config.most_groups)
    if labels is None:
        return alone, ()
    descriptions = [leaf.name.description for leaf in leaves]
    clustering = clustering_of(_centres(leaves, rows), labels)
    sizes = np.bincount(labels)
    wanted = [int(number) for number in np.flatnonzero(sizes >= 2)]
    tasks = [
        NamingTask(1, task.cluster, task.sample, task.size, task.members, task.outsiders)
        for task in naming_tasks(clustering, descriptions, wanted, config.naming)
    ]
    names = chosen_names(tasks, naming, embed)
    places = {number: place for place, number in enumerate(names)}
    return [places.get(int(label)) for label in labels], tuple(names.values())


def _centres(leaves: Sequence[_Leaf], rows: Vectors) -> Vectors:
    if not leaves:
        return np.zeros((0, rows.shape[1]))
    return normalise_rows(np.stack([rows[leaf.rows].mean(axis=0) for leaf in leaves]))
