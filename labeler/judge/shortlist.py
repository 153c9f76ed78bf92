"""Which categories a judge that reads prompts is shown: the evidence judge's first ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from labeler.embedding.base import CachedEmbedder, Embedder
from labeler.judge.base import CategoryOption, LatentRecord
from labeler.judge.evidence_statistics import LanguageIdentifier, Reading, read
from labeler.judge.few_shot import build_head_finder
from labeler.judge.labelled_evidence import LabelledLatent, fitting_set
from labeler.judge.latent_features import FeatureReader, foreign_share
from labeler.judge.nearest_category import CategoryFinder
from taxonomy.clustering import canonical_text

LEAST_SHARE = 1e-12
"""Added to the probabilities, which are compared by their logarithms."""


class Shortlister:
    """Ranks the categories for each latent, with the evidence judge's head where there is one."""

    def __init__(
        self,
        options: Sequence[CategoryOption],
        embedder: Embedder,
        size: int,
        labelled: Sequence[LabelledLatent] | None = None,
        cache: Path | None = None,
    ) -> None:
        """The head is fitted on `labelled`, by default the package's; its fit lies in `cache`."""
        labelled = fitting_set() if labelled is None else labelled
        self._options = tuple(options)
        self._size = size
        self._embedder = CachedEmbedder(embedder)
        self._nearest = CategoryFinder.build(self._options, self._embedder)
        self._features = FeatureReader(self._embedder, LanguageIdentifier())
        self._head = build_head_finder(
            self._options, self._features, self._nearest, labelled, cache
        )
        known = {latent.category for latent in labelled}
        self._all_labelled = known.issuperset(option.slug for option in self._options)

    def nearest(self, subject: LatentRecord, explanation: str) -> tuple[CategoryOption, ...]:
        """The best categories by the texts on which the latent fires, best first.

        Where it has no texts, the explanation is compared with the definitions. Where a leaf has
        no labelled latents, the head's order and that of the definitions take turns.
        """
        order = self._order(read(subject), explanation)
        return tuple(self._options[place] for place in order[: self._size])

    def _order(self, reading: Reading, explanation: str) -> list[int]:
        if not reading.snippets:
            vectors = self._embedder.embed([canonical_text(explanation)])
            return _best(self._nearest.scores(vectors, 0.0))
        examples = self._features.examples(reading)
        orders = []
        if self._head is not None:
            shares = self._head.probabilities([examples])[0][:-1]
            orders.append(_best(np.log(shares + LEAST_SHARE)))
        if self._head is None or not self._all_labelled:
            sentences = np.stack([example.sentence for example in examples])
            orders.append(_best(self._nearest.scores(sentences, foreign_share(examples))))
        return list(dict.fromkeys(chain.from_iterable(zip(*orders, strict=True))))


def _best(scores: np.ndarray) -> list[int]:
    """Places of the scores, best first; ties, up to rounding, in their order."""
    return [int(place) for place in np.argsort(-np.round(scores, 3), kind="stable")]
