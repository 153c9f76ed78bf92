"""Which documents show what a latent does: strongest, lower quantiles, and negatives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from crosscoder.activations import ActivationStore
from crosscoder.encoding import encode_shard
from crosscoder.model import Crosscoder
from crosscoder.progress import Advance
from crosscoder.shards import Shard

EvidenceKind = Literal["top", "quantile", "negative", "other_model"]
IntArray = NDArray[np.int64]

_NEIGHBOURS = 16
"""Documents of similar length among which a negative is drawn."""


class EvidenceConfig(BaseModel):
    """How much evidence is collected for each latent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    top: int = Field(default=12, ge=1)
    """Strongest documents."""
    quantile: int = Field(default=8, ge=0)
    """Documents drawn over the strata below the strongest."""
    strata: int = Field(default=4, ge=1)
    """Equal parts into which the documents below the strongest are ranked."""
    negative: int = Field(default=8, ge=0)
    """Documents in which the latent never fires."""
    window: int = Field(default=32, ge=1)
    """Tokens of a window; a shorter document is shown whole."""
    seed: int = 0
    """Seed of the random draws."""


@dataclass(frozen=True)
class ActiveCodes:
    """Where some latents are active in a shard, ordered by latent, then row."""

    latent: IntArray
    """(n,) position in the list of wanted latents."""
    row: IntArray
    """(n,) row in the shard."""
    value: NDArray[np.float32]
    """(n,) unscaled activation."""


@dataclass(frozen=True)
class Maxima:
    """The strongest token of each latent in each document where it fires, by latent."""

    latent: IntArray
    """(n,) position in the list of wanted latents, ascending."""
    document: IntArray
    """(n,) ascending within a latent."""
    position: IntArray
    """(n,) within the document; the first one on a tie."""
    value: NDArray[np.float32]
    """(n,) unscaled activation there."""

    def of(self, latent: int) -> Maxima:
        """The documents of one latent."""
        part = slice(*np.searchsorted(self.latent, [latent, latent + 1]).tolist())
        return Maxima(self.latent[part], self.document[part], self.position[part], self.value[part])


@dataclass(frozen=True)
class Candidate:
    """A document that may become evidence."""

    latent: int
    """Position in the list of wanted latents."""
    document: int
    kind: EvidenceKind
    quantile: int | None
    """Stratum, 0 = weakest; only for `quantile`."""
    centre: float
    """Middle of the window as a share of the document's length."""


def active_codes(part: Crosscoder, shard: Shard) -> ActiveCodes:
    """Encode a shard's unmasked tokens with a crosscoder of the wanted latents only."""
    pieces = [
        (tokens.codes.latent.cpu(), tokens.row[tokens.codes.token.cpu()], tokens.codes.value.cpu())
        for tokens in encode_shard(part, shard)
    ]
    if not pieces:
        none = np.empty(0, dtype=np.int64)
        return ActiveCodes(none, none, none.astype(np.float32))
    latent, row, value = (torch.cat(column).numpy() for column in zip(*pieces, strict=True))
    order = np.lexsort((row, latent))
    return ActiveCodes(latent[order], row[order], value[order].astype(np.float32))


def find_maxima(part: Crosscoder, store: ActivationStore, advance: Advance) -> Maxima:
    """One pass: per wanted latent and document, the strongest unmasked token."""
    pieces = []
    for shard in store.shards():
        pieces.append(_shard_maxima(active_codes(part, shard), shard))
        advance(shard.n_tokens)
    columns = [np.concatenate(column) for column in zip(*pieces, strict=True)]
    order = np.lexsort((columns[1], columns[0]))
    latent, document, position, value = (column[order] for column in columns)
    return Maxima(latent, document, position, value)


def _shard_maxima(
    codes: ActiveCodes, shard: Shard
) -> tuple[IntArray, IntArray, IntArray, NDArray[np.float32]]:
    document = shard.document.numpy()[codes.row].astype(np.int64)
    position = shard.position.numpy()[codes.row].astype(np.int64)
    order = np.lexsort((position, -codes.value, document, codes.latent))
    latent, document = codes.latent[order], document[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (np.diff(latent) != 0) | (np.diff(document) != 0)
    return latent[first], document[first], position[order][first], codes.value[order][first]


class CandidatePlanner:
    """Draws candidates for one latent after another; a draw depends on the seed and the latent.

    There are more candidates than evidence wanted, so that repeated texts can be passed over.
    """

    def __init__(self, store: ActivationStore, config: EvidenceConfig) -> None:
        self._config = config
        self._length = np.asarray(store.documents.n_tokens, dtype=np.int64)
        usable = np.flatnonzero(np.asarray(store.documents.n_unmasked) > 0)
        self._by_length = usable[np.argsort(self._length[usable], kind="stable")]

    def candidates(self, maxima: Maxima, latent: int, latent_index: int) -> Iterator[Candidate]:
        """Candidates for one latent, kind by kind, best first.

        `maxima` are the documents of this latent, `latent` its position in the wanted list.
        """
        if len(maxima.document) == 0:
            return
        rng = np.random.default_rng([self._config.seed, latent_index])
        centre = (maxima.position + 0.5) / self._length[maxima.document]
        ranked = np.lexsort((maxima.document, -maxima.value))
        for i in ranked[: _with_spare(self._config.top)]:
            yield Candidate(latent, int(maxima.document[i]), "top", None, float(centre[i]))
        for stratum, i in self._lower(ranked[self._config.top :], rng):
            yield Candidate(latent, int(maxima.document[i]), "quantile", stratum, float(centre[i]))
        for document, i in self._negatives(maxima, rng):
            yield Candidate(latent, document, "negative", None, float(centre[i]))

    def _lower(self, ranked: IntArray, rng: np.random.Generator) -> list[tuple[int, int]]:
        """(stratum, place) of documents below the strongest, one stratum after another."""
        strata = np.array_split(ranked[::-1], self._config.strata)
        shuffled = [rng.permutation(stratum).tolist() for stratum in strata]
        rounds = max((len(stratum) for stratum in shuffled), default=0)
        drawn = [
            (number, stratum[turn])
            for turn in range(rounds)
            for number, stratum in enumerate(shuffled)
            if turn < len(stratum)
        ]
        return drawn[: _with_spare(self._config.quantile)]

    def _negatives(self, maxima: Maxima, rng: np.random.Generator) -> list[tuple[int, int]]:
        """(document, place of the active document whose length and centre it imitates)."""
        pool = self._by_length[~np.isin(self._by_length, maxima.document)]
        drawn: list[tuple[int, int]] = []
        while len(pool) and len(drawn) < _with_spare(self._config.negative):
            model = int(rng.integers(len(maxima.document)))
            place = int(np.searchsorted(self._length[pool], self._length[maxima.document[model]]))
            low = min(max(0, place - _NEIGHBOURS // 2), max(0, len(pool) - _NEIGHBOURS))
            chosen = int(rng.integers(low, min(low + _NEIGHBOURS, len(pool))))
            drawn.append((int(pool[chosen]), model))
            pool = np.delete(pool, chosen)
        return drawn


def _with_spare(wanted: int) -> int:
    return 2 * wanted + 4 if wanted else 0
