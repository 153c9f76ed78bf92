"""Which documents show what a latent does: strongest, lower quantiles, hard negatives."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from crosscoder.config import EvidenceKind, with_spare
from crosscoder.corpus import DocumentTokens
from crosscoder.evidence_pass import Entries, EvidencePass, IntArray, window_start


@dataclass(frozen=True)
class FiringTokens:
    """How much a latent's strongest windows activate on each token of the vocabulary."""

    token_ids: NDArray[np.int64]
    """(n,) ascending."""
    weight: NDArray[np.float64]
    """(n,) summed activation, positive."""

    @classmethod
    def of(cls, windows: Sequence[tuple[NDArray[np.int32], NDArray[np.float32]]]) -> FiringTokens:
        """From the token ids and activations of each window."""
        ids = np.concatenate([tokens for tokens, _ in windows]).astype(np.int64)
        activation = np.concatenate([values for _, values in windows]).astype(np.float64)
        token_ids, place = np.unique(ids[activation > 0], return_inverse=True)
        weight = np.bincount(place, activation[activation > 0], len(token_ids))
        return cls(token_ids, weight.astype(np.float64))


@dataclass(frozen=True)
class SimilarDocument:
    """A document in which the latent is inactive, with words on which it fires elsewhere."""

    document: int
    position: int
    """The token of the largest weight among those that take part."""


def similar_documents(
    firing: FiringTokens, pool: Sequence[int], texts: Mapping[int, DocumentTokens]
) -> Iterator[SimilarDocument]:
    """Documents of the pool that share firing tokens, the largest shared weight first.

    The score is the weight of the distinct shared tokens; ties go to the earlier document.
    """
    scored: list[tuple[float, int, int]] = []
    for document in pool:
        text = texts[document]
        unmasked = np.flatnonzero(text.mask)
        ids = text.token_ids[unmasked].astype(np.int64)
        if len(ids) == 0 or len(firing.token_ids) == 0:
            continue
        at = np.minimum(np.searchsorted(firing.token_ids, ids), len(firing.token_ids) - 1)
        weight = np.where(firing.token_ids[at] == ids, firing.weight[at], 0.0)
        score = float(firing.weight[np.unique(at[weight > 0])].sum())
        if score > 0:
            scored.append((-score, document, int(unmasked[weight.argmax()])))
    for _, document, position in sorted(scored):
        yield SimilarDocument(document, position)


_NEIGHBOURS = 16
"""Documents of similar length among which a negative is drawn."""


@dataclass(frozen=True)
class Candidate:
    """A document that may become evidence."""

    latent: int
    """Place in the list of wanted latents."""
    document: int
    kind: EvidenceKind
    quantile: int | None
    """Stratum, 0 = weakest; only for `quantile`."""
    centre: float
    """Middle of the window as a share of the document's length."""
    activations: tuple[float, ...] | None
    """Of the window's tokens; None where the latent is inactive in the whole document."""


@dataclass(frozen=True)
class Wanted:
    """So many windows of one kind, from these candidates, best first."""

    kind: EvidenceKind
    number: int
    candidates: tuple[Candidate, ...]


class CandidatePlanner:
    """Turns what a pass kept into candidates; a draw depends on the seed and the latent alone."""

    def __init__(
        self,
        kept: EvidencePass,
        lengths: Sequence[int],
        texts: Mapping[int, DocumentTokens] | None = None,
    ) -> None:
        """`lengths` are the tokens of each document of the corpus.

        `texts` holds `compared_documents` of the latents; only similar negatives need them.
        """
        self._kept = kept
        self._texts = texts or {}
        self._config = kept.config
        self._length = np.asarray(lengths, dtype=np.int64)

    def plan(self, latent: int) -> tuple[Wanted, ...]:
        """Candidates of the latent at that place, kind by kind; none where it never fires."""
        kept, config = self._kept, self._config
        top = kept.top.of(latent)
        if len(top.entries) == 0:
            return ()
        rng = np.random.default_rng([config.seed, int(kept.latents[latent])])
        top_windows = kept.top_windows.read(latent, top.slot)
        strongest = [
            self._candidate(top.entries, i, "top", None, tuple(top_windows[i].tolist()))
            for i in range(len(top.entries))
        ]
        sample = kept.sample.of(latent).entries
        return (
            Wanted("top", config.top, tuple(strongest)),
            Wanted("quantile", config.quantile, tuple(self._lower(latent, top.entries, rng))),
            Wanted("negative", config.similar, tuple(self._similar(latent, top.entries))),
            Wanted(
                "negative",
                config.negative - config.similar,
                tuple(self._negatives(latent, sample, rng)),
            ),
            Wanted("other_model", config.other_model, tuple(self._others(latent))),
        )

    def compared_documents(self, latent: int) -> set[int]:
        """Documents whose words are compared to find similar negatives."""
        if self._config.similar == 0:
            return set()
        kept = (self._kept.top, self._kept.inactive)
        return {int(document) for part in kept for document in part.of(latent).entries.document}

    def _candidate(
        self,
        entries: Entries,
        i: int,
        kind: EvidenceKind,
        quantile: int | None,
        activations: tuple[float, ...] | None,
    ) -> Candidate:
        document = int(entries.document[i])
        centre = (int(entries.position[i]) + 0.5) / int(self._length[document])
        return Candidate(int(entries.latent[i]), document, kind, quantile, centre, activations)

    def _lower(self, latent: int, top: Entries, rng: np.random.Generator) -> Iterator[Candidate]:
        """Sampled documents below the strongest, one stratum after another in turn."""
        sample = self._kept.sample.of(latent)
        entries = sample.entries
        windows = self._kept.sample_windows.read(latent, sample.slot)
        below = ~np.isin(entries.document, top.document[: self._config.top])
        ranked = np.lexsort((entries.document, -entries.value))
        strata = np.array_split(ranked[below[ranked]][::-1], self._config.strata)
        shuffled = [rng.permutation(stratum).tolist() for stratum in strata]
        rounds = max(map(len, shuffled))
        drawn = [
            (number, stratum[turn])
            for turn in range(rounds)
            for number, stratum in enumerate(shuffled)
            if turn < len(stratum)
        ]
        for number, i in drawn[: with_spare(self._config.quantile)]:
            yield self._candidate(entries, i, "quantile", number, tuple(windows[i].tolist()))

    def _negatives(
        self, latent: int, active: Entries, rng: np.random.Generator
    ) -> Iterator[Candidate]:
        """Inactive documents, each of a length like that of a random active one."""
        inactive = self._kept.inactive.of(latent).entries.document
        pool = inactive[np.lexsort((inactive, self._length[inactive]))]
        for _ in range(min(len(pool), with_spare(self._config.negative))):
            model = int(rng.integers(len(active)))
            like = int(active.document[model])
            chosen = _draw_of_length(self._length[pool], int(self._length[like]), rng)
            centre = (int(active.position[model]) + 0.5) / int(self._length[like])
            yield Candidate(latent, int(pool[chosen]), "negative", None, centre, None)
            pool = np.delete(pool, chosen)

    def _similar(self, latent: int, top: Entries) -> Iterator[Candidate]:
        """Inactive documents that use the words on which the latent fires most."""
        if self._config.similar == 0:
            return
        slots = self._kept.top.of(latent).slot
        windows = []
        for i, values in enumerate(self._kept.top_windows.read(latent, slots)):
            ids = self._texts[int(top.document[i])].token_ids
            start = int(window_start(top.position[i], np.array(len(ids)), self._config.window))
            shown = ids[start : start + self._config.window]
            windows.append((shown, values[: len(shown)]))
        pool = self._kept.inactive.of(latent).entries.document.tolist()
        found = similar_documents(FiringTokens.of(windows), pool, self._texts)
        for similar in itertools.islice(found, with_spare(self._config.similar)):
            centre = (similar.position + 0.5) / int(self._length[similar.document])
            yield Candidate(latent, similar.document, "negative", None, centre, None)

    def _others(self, latent: int) -> Iterator[Candidate]:
        entries = self._kept.other.of(latent).entries
        for i in range(len(entries)):
            yield self._candidate(entries, i, "other_model", None, None)


def _draw_of_length(lengths: IntArray, wanted: int, rng: np.random.Generator) -> int:
    """Place of one of the documents whose ascending `lengths` are nearest to `wanted`."""
    place = int(np.searchsorted(lengths, wanted))
    low = min(max(0, place - _NEIGHBOURS // 2), max(0, len(lengths) - _NEIGHBOURS))
    return int(rng.integers(low, min(low + _NEIGHBOURS, len(lengths))))


_ROWS = 1024


@torch.no_grad()
def nearest_counterparts(
    decoder: torch.Tensor,
    latents: Sequence[int],
    model: int,
    other_latents: Sequence[int],
    other_model: int,
) -> dict[int, int]:
    """Maps each latent to the latent of the other side whose decoder direction is nearest.

    `decoder` is (F, M, d). Directions of `latents` are read for `model`, those of
    `other_latents` for `other_model`. Nearest means the largest cosine; the first candidate wins
    a tie. A latent is never its own counterpart; where there is no candidate it has none.
    """
    own = list(latents)
    others = list(other_latents)
    if not own or not others:
        return {}
    candidates = _directions(decoder, others, other_model)
    index = torch.tensor(others)
    counterparts: dict[int, int] = {}
    for start in range(0, len(own), _ROWS):
        part = own[start : start + _ROWS]
        cosine = _directions(decoder, part, model) @ candidates.T
        cosine[torch.tensor(part)[:, None] == index] = -torch.inf
        best = cosine.max(dim=1)
        for latent, value, place in zip(
            part, best.values.tolist(), best.indices.tolist(), strict=True
        ):
            if value > -torch.inf:
                counterparts[latent] = others[place]
    return counterparts


def _directions(decoder: torch.Tensor, latents: Sequence[int], model: int) -> torch.Tensor:
    rows = decoder[torch.tensor(list(latents)), model].double()
    return torch.nn.functional.normalize(rows, dim=1)
