"""How fast explanations are clustered and mapped, and whether planted categories come back.

The vectors are planted: a direction that all explanations share, one for each of 6 groups, one for
each of 30 leaves, and noise. All directions and the noise are drawn with a falling spectrum
(standard deviation of component k proportional to k^-0.4), as sentence vectors have one. Weights
are set by the mean cosines of `SETTINGS`; the noise of a text varies by a log-normal factor
(sigma 0.2), and leaves differ in size (Dirichlet, concentration 3; every leaf has one text).
Nothing that is recovered is known to the clustering: the distance is chosen by its stability sweep.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import adjusted_mutual_info_score

from taxonomy.clustering import (
    average_linkage,
    centred,
    cluster_centres,
    clustering_of,
    group_leaves,
    sweep_thresholds,
)
from taxonomy.mapping import (
    DEFAULT_NONE_THRESHOLD,
    LeafVectors,
    build_index,
    raw_similarities,
    standardise,
)

N_LEAVES, N_GROUPS, WIDTH = 30, 6, 384
SPECTRUM, NOISE_SIGMA, SIZE_CONCENTRATION = 0.4, 0.2, 3.0
MIN_MEMBERS = 3
GIB = 2**30


@dataclass(frozen=True)
class Cosines:
    """Mean cosine of two texts of one leaf, of one group, and of different groups."""

    name: str
    leaf: float
    group: float
    other: float


SETTINGS = (
    Cosines("paraphrases", 0.55, 0.27, 0.16),
    # What all-MiniLM-L6-v2 gives two differently worded descriptions (definition, include_when)
    # of the seed taxonomy's leaves: 0.48 +- 0.12, 0.26 +- 0.12, 0.18 +- 0.12.
    Cosines("loose", 0.48, 0.26, 0.18),
)


@dataclass(frozen=True)
class Planted:
    """Vectors (n, e) with the leaf of each and the group of each leaf."""

    vectors: npt.NDArray[np.float32]
    leaves: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Recovery:
    """What came back of one planted taxonomy."""

    setting: str
    n: int
    seed: int
    ami_leaves: float
    ami_groups: float | None
    n_clusters: int
    """Of at least three texts."""
    distance: float
    sweep_seconds: float
    linkage_seconds: float


def planted(n: int, cosines: Cosines, seed: int) -> Planted:
    """Draw n texts."""
    generator = np.random.default_rng([seed, n])
    spectrum = np.arange(1, WIDTH + 1) ** -SPECTRUM
    rotation = np.linalg.qr(generator.normal(size=(WIDTH, WIDTH)))[0]

    def directions(count: int) -> npt.NDArray[np.float64]:
        return unit((generator.normal(size=(count, WIDTH)) * spectrum) @ rotation)

    shared, of_group, of_leaf = directions(1), directions(N_GROUPS), directions(N_LEAVES)
    groups = np.arange(N_LEAVES) % N_GROUPS
    sizes = generator.dirichlet(np.full(N_LEAVES, SIZE_CONCENTRATION))
    drawn = generator.choice(N_LEAVES, size=n - N_LEAVES, p=sizes)
    leaves = generator.permutation(np.concatenate([np.arange(N_LEAVES), drawn]))
    noise = np.sqrt(1 - cosines.leaf) * np.exp(generator.normal(0, NOISE_SIGMA, size=(n, 1)))
    vectors = (
        np.sqrt(cosines.other) * shared
        + np.sqrt(cosines.group - cosines.other) * of_group[groups[leaves]]
        + np.sqrt(cosines.leaf - cosines.group) * of_leaf[leaves]
        + noise * directions(n)
    )
    return Planted(unit(vectors).astype(np.float32), leaves, groups)


def unit(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rows scaled to length 1."""
    scaled: npt.NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


def recover(n: int, cosines: Cosines, seed: int) -> Recovery:
    """Cluster planted texts at a swept distance and compare with what was planted."""
    truth = planted(n, cosines, seed)
    started = time.perf_counter()
    rows = centred(truth.vectors)
    sweep = sweep_thresholds(rows, seed=seed, min_members=MIN_MEMBERS)
    swept = time.perf_counter()
    labels = average_linkage(rows).cut(sweep.threshold)
    linked = time.perf_counter()
    large = np.flatnonzero(np.bincount(labels) >= MIN_MEMBERS)
    return Recovery(
        setting=cosines.name,
        n=n,
        seed=seed,
        ami_leaves=float(adjusted_mutual_info_score(truth.leaves, labels)),
        ami_groups=_group_agreement(truth, rows, labels, large),
        n_clusters=len(large),
        distance=sweep.threshold,
        sweep_seconds=swept - started,
        linkage_seconds=linked - swept,
    )


def _group_agreement(
    truth: Planted,
    rows: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    large: npt.NDArray[np.int64],
) -> float | None:
    """Agreement of the first level made from the clusters, over the texts in them."""
    centres = cluster_centres(rows, labels)[large]
    first_level = group_leaves(centres)
    if first_level is None:
        return None
    group_of = dict(zip(large.tolist(), first_level.tolist(), strict=True))
    inside = np.isin(labels, large)
    found = [group_of[label] for label in labels[inside].tolist()]
    return float(adjusted_mutual_info_score(truth.groups[truth.leaves[inside]], found))


def cluster_and_map(n: int, distance: float, seed: int) -> dict[str, float]:
    """Seconds to cluster n given vectors once, and to map every text to the clusters found."""
    vectors = planted(n, SETTINGS[0], seed).vectors
    started = time.perf_counter()
    rows = centred(vectors)
    labels = average_linkage(rows).cut(distance)
    clustering = clustering_of(rows, labels)
    clustered = time.perf_counter()
    large = np.flatnonzero(np.bincount(labels) >= MIN_MEMBERS)
    leaves = [
        LeafVectors(
            str(number), rows[clustering.medoids[number]], rows[clustering.members(number)[:6]]
        )
        for number in large
    ]
    index = build_index(leaves)
    scores = standardise(raw_similarities(rows, index), index)
    ended = time.perf_counter()
    return {
        "cluster_seconds": clustered - started,
        "map_seconds": ended - clustered,
        "total_seconds": ended - started,
        "n_categories": float(len(large)),
        "assigned_share": float((scores.max(axis=1) >= DEFAULT_NONE_THRESHOLD).mean()),
    }


def table(results: Sequence[Recovery]) -> str:
    """A Markdown table: least and median AMI over the seeds."""
    lines = [
        "| setting | explanations | AMI leaves, least / median | AMI groups, median | clusters | "
        "sweep + linkage, s |",
        "|---|---|---|---|---|---|",
    ]
    for setting, n in dict.fromkeys((each.setting, each.n) for each in results):
        own = [each for each in results if (each.setting, each.n) == (setting, n)]
        leaves = [each.ami_leaves for each in own]
        groups = [each.ami_groups for each in own if each.ami_groups is not None]
        seconds = statistics.median(each.sweep_seconds + each.linkage_seconds for each in own)
        lines.append(
            f"| {setting} | {n:,} | {min(leaves):.3f} / {statistics.median(leaves):.3f} | "
            f"{statistics.median(groups):.3f} | "
            f"{statistics.median(each.n_clusters for each in own):.0f} | {seconds:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run and print: a table for people, one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="200 and 2,000 explanations, 2 seeds")
    parser.add_argument("--seeds", type=int, default=5, help="planted taxonomies of each size")
    arguments = parser.parse_args()
    sizes = (200, 2_000) if arguments.quick else (200, 2_000, 10_000)
    # Seeds on which nothing of the method was chosen.
    seeds = range(100, 100 + (2 if arguments.quick else arguments.seeds))
    timed = cluster_and_map(sizes[-1], distance=0.8, seed=99)
    timed_peak = peak_gib()
    print(f"{sizes[-1]:,} explanations clustered and mapped in {timed['total_seconds']:.1f} s, "
          f"peak {timed_peak:.2f} GiB", file=sys.stderr)  # fmt: skip
    results = [
        recover(n, cosines, seed)
        for cosines in SETTINGS
        for n in sizes
        for seed in (seeds if n < 10_000 else seeds[:3])
    ]
    print(table(results))
    print(
        json.dumps(
            {
                "benchmark": "taxonomy_recovery",
                "quick": arguments.quick,
                "clustered_and_mapped": {"n": sizes[-1], **timed, "peak_gib": timed_peak},
                "recovered": [asdict(each) for each in results],
                "least_ami": {
                    f"{setting.name}/{n}": min(
                        each.ami_leaves
                        for each in results
                        if (each.setting, each.n) == (setting.name, n)
                    )
                    for setting in SETTINGS
                    for n in sizes
                },
                "peak_gib": peak_gib(),
            }
        )
    )


def peak_gib() -> float:
    """Largest resident memory so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


if __name__ == "__main__":
    main()
