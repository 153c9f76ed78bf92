"""Groups of like explanations: average linkage on cosine distance, cut at one or two levels.

The distance of the cut may be chosen by how well clusters come back. Several subsamples are
clustered, each by itself. A distance is good where two subsamples put the texts they share into the
same clusters (adjusted mutual information, Vinh et al. 2010) and where most texts have company at
all; the score is the product of the two. A two-level taxonomy is stable at both of its levels, so
of the distances that score about as well as the best one the least is taken: the finest clusters
that the texts bear.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics import adjusted_mutual_info_score, silhouette_score

from taxonomy.errors import InputError
from taxonomy.mapping import Vectors, normalise_rows

ROWS_AT_A_TIME = 512
"""Rows whose distances are computed in one product."""
DEFAULT_DISTANCE_THRESHOLD = 0.5
"""Mean cosine distance between two clusters from which they stay apart."""
CENTRES_AT_A_TIME = 256
"""Clusters whose nearest outsiders are looked for in one product."""
LEAST_LEAVES = 6
"""Fewer leaves need no level above them."""
MOST_GROUPS = 10
"""More groups than this are no overview."""
_SUBJECT = r"(?:this|the|a)?\s*(?:latent|feature|neuron|unit|direction|it)?\s*"
_VERB = (
    r"(?:(?:mainly|mostly|primarily|strongly|consistently|typically|often|always)\s+)?"
    r"(?:fires?|firing|activates?|activating|responds?|responding|triggers?|detects?|detecting|"
    r"represents?|representing|captures?|capturing|encodes?|encoding|is active|"
    r"is activated)\s*"
    r"(?:(?:mainly|mostly|primarily|strongly|consistently|typically|often|always)\s+)?"
    r"(?:on|for|to|in|when|whenever|by|at)?\s*"
)
_BOILERPLATE = re.compile(rf"^\W*(?>{_SUBJECT}{_VERB})(?=\S)", re.IGNORECASE)
TOLERANCE = 0.06
"""Scores this close to the best one count as equal to it."""
N_THRESHOLDS = 24
MOST_TEXTS = 1000
"""Texts that the sweep looks at: the distance between like texts does not depend on how many."""
LEAST_TEXTS = 8
"""Below this no subsample can say anything."""


@dataclass(frozen=True)
class Dendrogram:
    """Which groups of distinct vectors merge at which mean cosine distance."""

    merges: Vectors
    """(d - 1, 4) in SciPy's layout for d distinct vectors, by rising distance; d may be 1."""
    distinct: npt.NDArray[np.int64]
    """(n,) distinct vector of each text."""

    @property
    def heights(self) -> Vectors:
        """(d - 1,) rising distances at which groups merge."""
        result: Vectors = self.merges[:, 2]
        return result

    def cut(self, threshold: float) -> npt.NDArray[np.int64]:
        """Clusters (n,), numbered by their first text; groups `threshold` or more apart stay so.

        Raises InputError for a threshold outside (0, 2], the range of a cosine distance.
        """
        if not 0 < threshold <= 2:
            raise InputError(
                f"cluster distance {threshold} is no cosine distance; choose 0 < d <= 2"
            )
        if len(self.merges) == 0:
            return np.zeros(len(self.distinct), dtype=np.int64)
        below = float(np.nextafter(threshold, 0.0))
        labels = fcluster(self.merges, below, criterion="distance")
        return number_by_first(np.asarray(labels, dtype=np.int64)[self.distinct])


def average_linkage(vectors: npt.ArrayLike) -> Dendrogram:
    """The tree of (n, e) vectors, n at least 1, by mean cosine distance between groups.

    Equal vectors are one: they always share a cluster, and a text that occurs often pulls no more
    than one that occurs once. Memory is two triangles of float64 distances, 16 n^2 / 2 bytes.
    """
    rows = normalise_rows(vectors)
    distinct, inverse = np.unique(rows, axis=0, return_inverse=True)
    if len(distinct) == 1:
        merges: Vectors = np.zeros((0, 4))
    else:
        merges = linkage(_condensed_distances(distinct), method="average")
    return Dendrogram(merges, np.asarray(inverse, dtype=np.int64).ravel())


def number_by_first(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Renumber clusters (n,) by the position of their first text."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    result: npt.NDArray[np.int64] = rank[inverse.ravel()]
    return result


def _condensed_distances(rows: Vectors) -> Vectors:
    """Cosine distances of unit rows (d, e) as one triangle (d * (d - 1) / 2,), row by row.

    The square of distances never exists: at 10,000 texts it alone would take 800 MB.
    """
    n = len(rows)
    triangle = np.empty(n * (n - 1) // 2)
    at = 0
    for first in range(0, n, ROWS_AT_A_TIME):
        block = rows[first : first + ROWS_AT_A_TIME] @ rows[first:].T
        np.subtract(1.0, block, out=block)
        np.clip(block, 0.0, 2.0, out=block)
        for row, values in enumerate(block):
            right = values[row + 1 :]
            triangle[at : at + len(right)] = right
            at += len(right)
    return triangle


@dataclass(frozen=True)
class Clustering:
    """Cluster of each text; clusters are numbered by their first text, from 0."""

    labels: npt.NDArray[np.int64]
    """(n,) cluster of each text."""
    medoids: npt.NDArray[np.int64]
    """(n_clusters,) text with the least mean distance to its own cluster; the first of equals."""
    outsiders: tuple[tuple[int, ...], ...]
    """For each cluster the texts of other clusters nearest to its centre, nearest first."""

    @property
    def n_clusters(self) -> int:
        """Number of clusters."""
        return len(self.medoids)

    def members(self, cluster: int) -> npt.NDArray[np.int64]:
        """Texts of a cluster, in order."""
        return np.flatnonzero(self.labels == cluster)


@dataclass(frozen=True)
class ClusterSample:
    """What a name is made from: typical members, and like texts that do not belong."""

    cluster: int
    size: int
    medoid: str
    members: tuple[str, ...]
    outsiders: tuple[str, ...]


def cluster(
    vectors: npt.ArrayLike,
    distance_threshold: float | None = None,
    *,
    n_outsiders: int = 10,
) -> Clustering:
    """Cluster sentence vectors (n, e); n may be 0.

    Equal vectors are merged before: they always share a cluster, and a text that occurs often pulls
    no more than one that occurs once. Raises InputError for a threshold
    outside (0, 2], the range of a cosine distance.
    """
    threshold = DEFAULT_DISTANCE_THRESHOLD if distance_threshold is None else distance_threshold
    if not 0 < threshold <= 2:
        raise InputError(f"cluster distance {threshold} is no cosine distance; choose 0 < d <= 2")
    if np.size(vectors) == 0:
        return clustering_of(np.zeros((0, 1)), np.zeros(0, dtype=np.int64))
    labels = average_linkage(vectors).cut(threshold)
    return clustering_of(vectors, labels, n_outsiders=n_outsiders)


def clustering_of(
    vectors: npt.ArrayLike, labels: npt.NDArray[np.int64], *, n_outsiders: int = 10
) -> Clustering:
    """Describe a partition (n,) of vectors (n, e) whose clusters are 0, 1, ... without a gap."""
    if len(labels) == 0:
        return Clustering(labels=labels, medoids=labels, outsiders=())
    rows = normalise_rows(vectors)
    centres = cluster_centres(rows, labels)
    return Clustering(
        labels=labels,
        medoids=_medoids(rows, labels, centres),
        outsiders=_outsiders(rows, labels, centres, n_outsiders),
    )


def sample_clusters(
    clustering: Clustering, texts: Sequence[str], *, n_members: int = 10, n_outsiders: int = 5
) -> list[ClusterSample]:
    """Return what names each cluster: its medoid first, then other distinct members in order."""
    if len(texts) != len(clustering.labels):
        raise InputError(f"{len(texts)} texts for a clustering of {len(clustering.labels)}")
    samples = []
    for number, medoid in enumerate(clustering.medoids):
        inside = clustering.members(number)
        members = dict.fromkeys([texts[medoid], *(texts[index] for index in inside)])
        outside = dict.fromkeys(texts[index] for index in clustering.outsiders[number])
        samples.append(
            ClusterSample(
                cluster=number,
                size=len(inside),
                medoid=texts[medoid],
                members=tuple(members)[:n_members],
                outsiders=tuple(outside)[:n_outsiders],
            )
        )
    return samples


def name_clusters(
    clustering: Clustering, texts: Sequence[str], naming: Callable[[ClusterSample], str]
) -> list[str]:
    """Ask `naming` for the name of each cluster and return distinct names, in cluster order.

    A name that is empty is replaced by the medoid's text; one that is taken gets a number.
    """
    names: list[str] = []
    taken: set[str] = set()
    for sample in sample_clusters(clustering, texts):
        wanted = " ".join(naming(sample).split()) or sample.medoid
        name, number = wanted, 2
        while name.casefold() in taken:
            name, number = f"{wanted} ({number})", number + 1
        taken.add(name.casefold())
        names.append(name)
    return names


def cluster_centres(rows: Vectors, labels: npt.NDArray[np.int64]) -> Vectors:
    """Mean vectors (C, e); the mean cosine of a text to a cluster is its product with this."""
    sums = np.zeros((int(labels.max()) + 1, rows.shape[1]))
    np.add.at(sums, labels, rows)
    result: Vectors = sums / np.bincount(labels)[:, None]
    return result


def _medoids(
    rows: Vectors, labels: npt.NDArray[np.int64], centres: Vectors
) -> npt.NDArray[np.int64]:
    closeness = np.round(np.einsum("ne,ne->n", rows, centres[labels]), 12)
    order = np.lexsort((np.arange(len(rows)), -closeness, labels))
    _, first = np.unique(labels[order], return_index=True)
    return order[first].astype(np.int64)


def _outsiders(
    rows: Vectors, labels: npt.NDArray[np.int64], centres: Vectors, n_outsiders: int
) -> tuple[tuple[int, ...], ...]:
    found: list[tuple[int, ...]] = []
    for first in range(0, len(centres), CENTRES_AT_A_TIME):
        block = np.round(centres[first : first + CENTRES_AT_A_TIME] @ rows.T, 12)
        for offset, closeness in enumerate(block):
            found.append(_nearest(closeness, labels == first + offset, n_outsiders))
    return tuple(found)


def _nearest(closeness: Vectors, excluded: npt.NDArray[np.bool_], n_wanted: int) -> tuple[int, ...]:
    """Positions of the largest values (n,) that are not excluded; the first of equals first."""
    closeness[excluded] = -np.inf
    n = min(n_wanted, len(closeness) - int(excluded.sum()))
    if n == 0:
        return ()
    least = np.partition(closeness, len(closeness) - n)[len(closeness) - n]
    candidates = np.flatnonzero(closeness >= least)
    order = np.argsort(-closeness[candidates], kind="stable")[:n]
    return tuple(int(index) for index in candidates[order])


def group_leaves(
    vectors: npt.ArrayLike, *, most_groups: int = MOST_GROUPS
) -> npt.NDArray[np.int64] | None:
    """Group (k,) of each leaf (k, e), or None where a level above the leaves says nothing.

    Of the cuts of the leaves' average-linkage tree into 2 to `most_groups` groups, and at most
    half as many as leaves, the one with the best mean silhouette (Rousseeuw 1987) is taken.
    """
    rows = normalise_rows(vectors)
    most = min(most_groups, len(rows) // 2)
    if len(rows) < LEAST_LEAVES or most < 2:
        return None
    tree = average_linkage(rows)
    distances = np.clip(1.0 - rows @ rows.T, 0.0, 2.0)
    np.fill_diagonal(distances, 0.0)
    best: tuple[float, npt.NDArray[np.int64]] | None = None
    for height in dict.fromkeys(float(height) for height in tree.heights):
        if not 0 < height <= 2:
            continue
        labels = tree.cut(height)
        if not 2 <= labels.max() + 1 <= most:
            continue
        quality = float(silhouette_score(distances, labels, metric="precomputed"))
        if best is None or quality > best[0]:
            best = (quality, labels)
    return None if best is None else best[1]


@dataclass(frozen=True)
class Canonical:
    """Distinct canonical texts, and which of them each given text is."""

    texts: tuple[str, ...]
    """Distinct, in the order in which they first occur."""
    of: tuple[int, ...]
    """Position in `texts` of each given text."""


def canonical_text(text: str) -> str:
    """Strip "This latent fires on" and the like, and settle Unicode, white space and the end.

    The words themselves and their case stay; a text that is nothing but boilerplate stays whole.
    """
    settled = " ".join(unicodedata.normalize("NFC", text).split())
    stripped = _BOILERPLATE.sub("", settled, count=1).strip(" .:;,")
    return stripped or settled


def canonicalise(texts: Sequence[str]) -> Canonical:
    """Canonical texts that differ in more than case, each once."""
    places: dict[str, int] = {}
    distinct: list[str] = []
    of = []
    for text in texts:
        short = canonical_text(text)
        key = short.casefold()
        if key not in places:
            places[key] = len(distinct)
            distinct.append(short)
        of.append(places[key])
    return Canonical(tuple(distinct), tuple(of))


@dataclass(frozen=True)
class SweepPoint:
    """How well the clusters at one distance come back."""

    threshold: float
    n_clusters: int
    """Clusters of all texts of the sweep, lone ones included."""
    agreement: float
    """Mean adjusted mutual information of two subsamples on the texts they share."""
    clustered_share: float
    """Share of texts in clusters of at least `min_members`."""

    @property
    def score(self) -> float:
        """What the choice goes by."""
        return self.agreement * self.clustered_share


@dataclass(frozen=True)
class ThresholdSweep:
    """The distances that were tried, rising, and the one that was chosen."""

    points: tuple[SweepPoint, ...]
    threshold: float
    seed: int

    @property
    def chosen(self) -> SweepPoint:
        """The point of the chosen distance."""
        return next(point for point in self.points if point.threshold == self.threshold)


def sweep_thresholds(
    vectors: npt.ArrayLike,
    *,
    seed: int,
    min_members: int = 3,
    n_subsamples: int = 6,
    share: float = 0.8,
    thresholds: Sequence[float] | None = None,
) -> ThresholdSweep:
    """Try distances on subsamples of (n, e) vectors; `thresholds` default to the tree's heights.

    Raises InputError for fewer than 8 different texts, or subsamples that share too little.
    """
    if n_subsamples < 2 or not 0.5 < share < 1:
        raise InputError("a threshold sweep needs 2 subsamples or more, of over half of the texts")
    generator = np.random.default_rng(seed)
    rows = np.unique(normalise_rows(vectors), axis=0)
    if len(rows) < LEAST_TEXTS:
        raise InputError(
            f"{len(rows)} different texts are too few to choose a cluster distance; "
            f"give one, or at least {LEAST_TEXTS} texts"
        )
    if len(rows) > MOST_TEXTS:
        rows = rows[np.sort(generator.choice(len(rows), MOST_TEXTS, replace=False))]
    tree = average_linkage(rows)
    samples = [
        np.sort(generator.choice(len(rows), round(share * len(rows)), replace=False))
        for _ in range(n_subsamples)
    ]
    trees = [average_linkage(rows[sample]) for sample in samples]
    tried = thresholds if thresholds is not None else default_thresholds(tree)
    points = tuple(
        _point(float(threshold), tree, samples, trees, min_members) for threshold in tried
    )
    best = max(point.score for point in points)
    chosen = next(point for point in points if point.score >= best - TOLERANCE)
    return ThresholdSweep(points, chosen.threshold, seed)


def default_thresholds(tree: Dendrogram) -> list[float]:
    """Distances from the one that merged half of the texts to the one that leaves two groups."""
    heights = tree.heights
    low, high = float(np.quantile(heights, 0.5)), float(heights[-1])
    steps = np.linspace(low, high, N_THRESHOLDS)
    return [float(step) for step in dict.fromkeys(np.clip(steps, 1e-6, 2.0))]


def _point(
    threshold: float,
    tree: Dendrogram,
    samples: Sequence[npt.NDArray[np.int64]],
    trees: Sequence[Dendrogram],
    min_members: int,
) -> SweepPoint:
    cuts = [each.cut(threshold) for each in trees]
    agreements = []
    for first in range(len(samples)):
        second = (first + 1) % len(samples)
        _, a, b = np.intersect1d(samples[first], samples[second], return_indices=True)
        agreements.append(adjusted_mutual_info_score(cuts[first][a], cuts[second][b]))
    whole = tree.cut(threshold)
    return SweepPoint(
        threshold=threshold,
        n_clusters=int(whole.max()) + 1,
        agreement=float(np.mean(agreements)),
        clustered_share=float(np.mean([_share_in_company(cut, min_members) for cut in cuts])),
    )


def _share_in_company(labels: npt.NDArray[np.int64], min_members: int) -> float:
    return float((np.bincount(labels)[labels] >= min_members).mean())


def centred(vectors: npt.ArrayLike) -> Vectors:
    """Unit rows (n, e) without their mean, which is what all explanations share: their style."""
    rows = normalise_rows(vectors)
    if len(rows) < LEAST_TEXTS:
        return rows
    return normalise_rows(rows - rows.mean(axis=0))
