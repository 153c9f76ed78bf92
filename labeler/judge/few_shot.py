"""Finds the categories of a latent with a head that is fitted on labelled latents.

The head (`taxonomy.category_head`) is fitted on the labelled latents of the package, on latents
without a subject that are mixed from their windows, and on reviewed latents of the study where it
learns from them. Leaves without labelled latents are found by their definition and prototypes. A
fit takes seconds, once the labelled texts are embedded, and lies in a file named by the hash of all
that it depends on. The package has the fit of the default embedding and the seed taxonomy.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from importlib.resources.abc import Traversable
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from crosscoder.files import json_sha256, whole_file
from labeler.errors import WorkError
from labeler.judge.answers import MAX_CATEGORIES
from labeler.judge.base import CategoryOption
from labeler.judge.evidence_statistics import Reading, read
from labeler.judge.labelled_evidence import NONE, LabelledLatent, labelled_sha256
from labeler.judge.latent_features import (
    ExampleFeatures,
    FeatureReader,
    foreign_share,
    head_rows,
)
from labeler.judge.mixed_latents import FUNCTION_WORDS, mixed_latents
from labeler.judge.nearest_category import CategoryFinder, Finding, Found
from labeler.judge.token_kinds import mean_shares
from labeler.study.study_file import cache_folder
from taxonomy.category_head import CategoryHead, HeadRows, fit_head
from taxonomy.teaching_order import doubt_of

Floats = NDArray[np.float64]

HEADS = "heads"
"""Folder of fitted heads, in the package and in the cache."""
NUMBERS = "numbers-and-time"
"""Slug of the category of numerals, dates and units."""
HEAD_VERSION = 1
"""Increased whenever the same labelled latents could give another head."""
RESAMPLES = 4
"""Resamples of the windows of each labelled latent."""
FEWEST_RESAMPLED = 3
"""Fewest windows of a resample, drawn with repetition."""
REVIEWED_WEIGHT = 1.0
"""Weight of a reviewed latent of the study against a labelled one of the package. With 3, two wrong
reviews of a category of eight labelled latents moved a third of another category's labels."""
RIDGE = 0.5
MIN_LEAVES = 2
"""Fewest leaves with labelled latents; with fewer, all are found by definitions and prototypes."""
ENOUGH = 5
"""Labelled latents from which a head's `none` is believed where a leaf's texts are near: with fewer
it calls a third of the leaf's latents `none`, which the texts alone had right."""
PRIOR_LOGIT = 1.0
"""Added for `none` and `function-words`: the head is fitted as if all categories were equally
frequent, but in real dictionaries these two are the most frequent by far."""
LEAST_PROBABILITY = 0.4
"""A latent whose best leaf is less probable is `none`."""
SECONDARY_PROBABILITY = 0.25
"""Probability from which a further leaf is assigned as well."""
SMALL_SHARE, LEADING_SHARE = 0.85, 0.4
"""A latent that is of no headline category is of a category of TOKEN_RULES where so much of its
activation is on tokens of these kinds, and so much on a single one."""
TOKEN_RULES = {FUNCTION_WORDS: ("grammar", "speech", "mark"), NUMBERS: ("number",)}
"""Category -> kinds of tokens."""
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeadFinder:
    """A fitted head with what it needs to read latents."""

    reader: FeatureReader
    nearest: CategoryFinder
    head: CategoryHead
    centre: Floats
    """(d,) mean features of the fit."""
    labelled: frozenset[str]
    """Slugs of the leaves with ENOUGH labelled latents."""
    headline: frozenset[str]
    """Slugs of the categories with a `behaviour` line: those that the report leads with."""

    @property
    def slugs(self) -> tuple[str, ...]:
        """The leaves, in the order of the probabilities."""
        return self.nearest.index.slugs

    def probabilities(self, latents: Sequence[Sequence[ExampleFeatures]]) -> Floats:
        """Probability (n, C + 1) of each leaf and of `none`."""
        rows = head_rows(latents, self.nearest)
        logits = self.head.logits(HeadRows(rows.features - self.centre, rows.similarities))
        logits[:, -1] += PRIOR_LOGIT
        if FUNCTION_WORDS in self.slugs:
            logits[:, self.slugs.index(FUNCTION_WORDS)] += PRIOR_LOGIT
        shares: Floats = softmax(logits, axis=1)
        return shares

    def find(self, reading: Reading) -> Finding:
        """Leaves of a reading with at least one example; none where no leaf fits."""
        examples = self.reader.examples(reading)
        shares = self.probabilities([examples])[0]
        sentences = np.stack([one.sentence for one in examples])
        doubt = float(doubt_of(shares[None])[0])
        chosen = self._chosen(shares, examples)
        if not chosen:
            return self._nearest_unlabelled(sentences, examples, doubt)
        by_example = self.nearest.by_snippet(sentences)
        found = [
            Found(self.slugs[leaf], float(shares[leaf]), int(by_example[:, leaf].argmax()))
            for leaf in chosen
        ]
        return Finding(found, doubt)

    def _nearest_unlabelled(
        self, sentences: Floats, examples: Sequence[ExampleFeatures], doubt: float
    ) -> Finding:
        """The leaf nearest by its texts, if few latents are labelled so: the head may miss it.

        `doubt` is the head's, which counts where it is believed.
        """
        foreign = foreign_share(examples)
        found = self.nearest.find(sentences, foreign)[:1]
        if not found or found[0].slug in self.labelled:
            return Finding([], doubt)
        return Finding(found, self.nearest.doubt(sentences, foreign))

    def _chosen(self, shares: Floats, examples: Sequence[ExampleFeatures]) -> list[int]:
        """Indices of the leaves that a latent is assigned, best first."""
        order = [int(leaf) for leaf in np.argsort(-shares[:-1], kind="stable")]
        best = order[0]
        if self.slugs[best] not in self.headline:
            by_tokens = [slug for slug in TOKEN_RULES if self._is_of_tokens(slug, examples)]
            if by_tokens:
                return [self.slugs.index(by_tokens[0])]
        if shares[best] < max(LEAST_PROBABILITY, shares[-1]):
            return []
        further = [leaf for leaf in order[1:] if shares[leaf] >= SECONDARY_PROBABILITY]
        return [best, *further][:MAX_CATEGORIES]

    def _is_of_tokens(self, slug: str, examples: Sequence[ExampleFeatures]) -> bool:
        if slug not in self.slugs:
            return False
        kinds = mean_shares([example.tokens.by_kind for example in examples])
        words = mean_shares([example.tokens.by_word for example in examples])
        share = sum(kinds.get(kind, 0.0) for kind in TOKEN_RULES[slug])
        return share >= SMALL_SHARE and max(words.values(), default=0.0) >= LEADING_SHARE


def heads_folder() -> Path:
    """Where fitted heads lie, each in a file."""
    return cache_folder() / HEADS


def build_head_finder(
    options: Sequence[CategoryOption],
    reader: FeatureReader,
    nearest: CategoryFinder,
    labelled: Sequence[LabelledLatent],
    cache: Path | None = None,
    reviewed: Sequence[LabelledLatent] = (),
) -> HeadFinder | None:
    """The finder for these options; None where fewer than two of them have labelled latents.

    `reviewed` are latents of the study, each of which counts as REVIEWED_WEIGHT of the `labelled`.
    Where a fit of the same inputs lies in the folder `cache` or in the package, it is read.
    """
    slugs = [option.slug for option in options]
    packaged, own = _usable(labelled, slugs), _usable(reviewed, slugs)
    counts = Counter(latent.category for latent in (*packaged, *own))
    if len(counts.keys() - {NONE}) < MIN_LEAVES:
        return None
    name = fit_name(options, reader, packaged, own)
    fitted = _stored_fit(name, cache)
    if fitted is None:
        fitted = _fit(slugs, reader, nearest, packaged, own)
        if cache is not None:
            write_fit(cache / name, *fitted)
    return HeadFinder(
        reader,
        nearest,
        *fitted,
        labelled=frozenset(slug for slug, n in counts.items() if n >= ENOUGH),
        headline=frozenset(option.slug for option in options if option.behaviour),
    )


def _fit(
    slugs: Sequence[str],
    reader: FeatureReader,
    nearest: CategoryFinder,
    labelled: Sequence[LabelledLatent],
    reviewed: Sequence[LabelledLatent],
) -> tuple[CategoryHead, Floats]:
    """The head and the mean (d,) of its features."""
    # Mixed from the package alone where it has any, so that a review leaves them as they are.
    mixed = mixed_latents(labelled or reviewed)
    weighted = [(latent, 1.0) for latent in (*labelled, *mixed)]
    weighted += [(latent, REVIEWED_WEIGHT) for latent in reviewed]
    readings = [(latent.category, read(latent.subject), weight) for latent, weight in weighted]
    readings = [each for each in readings if each[1].windows]
    reader.embed_all([reading for _, reading, _ in readings])
    random = np.random.default_rng(0)
    latents, labels, weights = [], [], []
    for category, reading, weight in readings:
        examples = reader.examples(reading)
        label = slugs.index(category) if category in slugs else len(slugs)
        for resample in [examples, *_resamples(examples, random)]:
            latents.append(resample)
            labels.append(label)
            weights.append(weight / (RESAMPLES + 1))
    rows = head_rows(latents, nearest)
    centre = rows.features.mean(axis=0)
    centred = HeadRows(rows.features - centre, rows.similarities)
    head = fit_head(centred, labels, weights, ridge=RIDGE)
    return replace(head, weights=_as_stored(head.weights), offsets=_as_stored(head.offsets)), (
        _as_stored(centre)
    )


def _as_stored(values: Floats) -> Floats:
    """Rounded to float32, so that a fit answers as it does when it is read from its file."""
    return values.astype(np.float32).astype(np.float64)


def _usable(latents: Sequence[LabelledLatent], slugs: Sequence[str]) -> list[LabelledLatent]:
    return [latent for latent in latents if latent.category in {*slugs, NONE}]


def _resamples(
    examples: list[ExampleFeatures], random: np.random.Generator
) -> list[list[ExampleFeatures]]:
    n = len(examples)
    drawn = []
    for _ in range(RESAMPLES):
        size = int(random.integers(min(FEWEST_RESAMPLED, n), n + 1))
        drawn.append([examples[row] for row in random.choice(n, size=size)])
    return drawn


def fit_name(
    options: Sequence[CategoryOption],
    reader: FeatureReader,
    labelled: Sequence[LabelledLatent],
    reviewed: Sequence[LabelledLatent] = (),
) -> str:
    """Name of the file with the fit: the hash of all that it depends on."""
    texts = [
        (option.slug, option.description, *option.prototypes, bool(option.behaviour))
        for option in options
    ]
    parts: list[object] = [HEAD_VERSION, reader.fingerprint, texts, labelled_sha256(labelled)]
    if reviewed:
        parts += [REVIEWED_WEIGHT, labelled_sha256(reviewed)]
    return f"{json_sha256(parts)}.npz"


def _stored_fit(name: str, cache: Path | None) -> tuple[CategoryHead, Floats] | None:
    """The fit of that name in the cache or in the package; None where there is none."""
    packaged = resources.files("labeler.judge").joinpath(HEADS, name)
    for place in (None if cache is None else cache / name, packaged):
        if place is not None and place.is_file():
            fitted = _read_fit(place)
            if fitted is not None:
                return fitted
    return None


def _read_fit(place: Path | Traversable) -> tuple[CategoryHead, Floats] | None:
    """The fit of a file; None where it cannot be read."""
    try:
        with np.load(BytesIO(place.read_bytes()), allow_pickle=False) as arrays:
            scale = float(arrays["similarity_weight"])
            weights, offsets, centre = (
                arrays[name].astype(np.float64) for name in ("weights", "offsets", "centre")
            )
        return CategoryHead(weights, offsets, scale), centre
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        _LOGGER.warning("%s: not readable, the head is fitted again: %s", place, error)
        return None


def write_fit(path: Path, head: CategoryHead, centre: Floats) -> None:
    """Write a fit in float32; a failure costs only the next fit."""
    try:
        with whole_file(path) as scratch, scratch.open("wb") as file:
            np.savez(
                file,
                weights=head.weights.astype(np.float32),
                offsets=head.offsets.astype(np.float32),
                similarity_weight=head.similarity_weight,
                centre=centre.astype(np.float32),
            )
    except WorkError as error:
        _LOGGER.warning("%s: the fitted head is not cached: %s", path, error)
