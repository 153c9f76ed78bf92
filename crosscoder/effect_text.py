"""The text on which effects are measured: random documents, batch by batch, with their codes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from crosscoder.batch_topk import SparseCodes
from crosscoder.corpus import TokenRole
from crosscoder.document_sums import MAX_GROUPS
from crosscoder.errors import InputError
from crosscoder.evaluate import CHUNK_BYTES
from crosscoder.harvest import content_tokens
from crosscoder.model import Crosscoder
from crosscoder.reading import plan_batches
from crosscoder.shards import Shard
from crosscoder.sources import ActivationSource

SCOPES = ("assistant", "answer_start", "content")
"""Tokens over which a divergence is summed: answers, the start of each answer, all content."""
ANSWER_START = 10
"""Tokens of `answer_start`, from the first token of an answer on."""


class DocumentSource(ActivationSource, Protocol):
    """Activations that can be read document by document."""

    def read_documents(self, documents: Sequence[int]) -> Iterator[Shard]:
        """Some documents, by ascending index, some at a time; shards hold no other document."""


@dataclass(frozen=True)
class EffectBatch:
    """Whole documents side by side, padded on the right."""

    input_ids: torch.Tensor
    """(B, T) int64."""
    activations: torch.Tensor
    """(B, T, M, d) float32 raw activations at the hook, 0 at the padding."""
    patched: torch.Tensor
    """(B, T) bool, tokens of the training mask: the only ones whose activations are changed."""
    scopes: torch.Tensor
    """(len(SCOPES), B, T) bool, those of them that a scope sums over."""
    group: torch.Tensor
    """(B,) int64 group of each document: documents of one unit are in one."""
    n_tokens: int
    """Tokens, without the padding."""


@dataclass(frozen=True)
class EffectText:
    """Some documents of a source, read in the same batches in every pass."""

    source: DocumentSource
    documents: tuple[int, ...]
    """Indices, ascending."""
    batch_tokens: int
    """Padded tokens of a batch, at most, unless a document is longer."""
    scope: int
    """Place in SCOPES of what attribution sums over: answers, or all content where none is."""

    @classmethod
    def draw(
        cls,
        source: DocumentSource,
        candidates: Sequence[int],
        max_tokens: int,
        batch_tokens: int,
        seed: int,
    ) -> EffectText:
        """Random candidates of together about `max_tokens` tokens, at least one document.

        InputError where no candidate has a token of the training mask.
        """
        documents = _draw(source, candidates, max_tokens, seed)
        tokens = source.document_tokens(documents).values()
        if not any(each.mask.any() for each in tokens):
            raise InputError("effect: no token to measure on; raise effect.max_tokens")
        answers = any((each.mask & (each.roles == TokenRole.ASSISTANT)).any() for each in tokens)
        scope = SCOPES.index("assistant" if answers else "content")
        return cls(source, documents, batch_tokens, scope)

    @property
    def n_groups(self) -> int:
        """Groups of documents of which sums are kept: one for each unit, at most MAX_GROUPS."""
        return min(len(self._units), MAX_GROUPS)

    @property
    def _units(self) -> list[int]:
        """The independent units of the documents, ascending."""
        of = self.source.document_units
        return sorted({of[document] for document in self.documents})

    @property
    def lengths(self) -> list[int]:
        """Tokens of the documents."""
        return [self.source.document_lengths[index] for index in self.documents]

    @property
    def n_tokens(self) -> int:
        """Tokens of the documents together."""
        return sum(self.lengths)

    def batches(self) -> Iterator[EffectBatch]:
        """One pass over the documents."""
        of = self.source.document_units
        place = {unit: index % self.n_groups for index, unit in enumerate(self._units)}
        for shard in self.source.read_documents(self.documents):
            starts = torch.searchsorted(shard.document, shard.document.unique())
            ends = [*starts[1:].tolist(), shard.n_tokens]
            spans = list(zip(starts.tolist(), ends, strict=True))
            for members in plan_batches([end - start for start, end in spans], self.batch_tokens):
                chosen = [spans[i] for i in members]
                groups = [place[of[int(shard.document[start])]] for start, _ in chosen]
                yield _batch(shard, chosen, groups)


def _draw(
    source: ActivationSource, candidates: Sequence[int], max_tokens: int, seed: int
) -> tuple[int, ...]:
    """Whole units in random order while they fit."""
    lengths, unit_of = source.document_lengths, source.document_units
    members: dict[int, list[int]] = {}
    for index in candidates:
        if lengths[index]:
            members.setdefault(unit_of[index], []).append(index)
    if not members:
        raise InputError("effect: no document to measure on; give more text")
    order = np.random.default_rng(seed).permutation(np.array(list(members))).tolist()
    sizes = [sum(lengths[index] for index in members[unit]) for unit in order]
    n_fitting = int((np.cumsum(sizes) <= max_tokens).sum())
    return tuple(sorted(index for unit in order[: max(1, n_fitting)] for index in members[unit]))


def _batch(shard: Shard, spans: list[tuple[int, int]], groups: list[int]) -> EffectBatch:
    """Documents of a shard, given by their rows, side by side."""
    longest = max(end - start for start, end in spans)
    row = torch.zeros(len(spans), longest, dtype=torch.int64)
    is_real = torch.zeros(len(spans), longest, dtype=torch.bool)
    for place, (start, end) in enumerate(spans):
        row[place, : end - start] = torch.arange(start, end)
        is_real[place, : end - start] = True
    patched = shard.mask[row] & is_real
    roles = shard.roles[row]
    is_answer = (roles == int(TokenRole.ASSISTANT)) & is_real
    scopes = torch.stack(
        [is_answer, is_answer & (_rank_in_run(is_answer) < ANSWER_START), content_tokens(roles)]
    )
    return EffectBatch(
        input_ids=torch.where(is_real, shard.token_ids[row].long(), 0),
        activations=shard.activations[row] * is_real[:, :, None, None],
        patched=patched,
        scopes=scopes & patched,
        group=torch.tensor(groups),
        n_tokens=int(is_real.sum()),
    )


def _rank_in_run(flags: torch.Tensor) -> torch.Tensor:
    """Place of each true element of (B, T) within its run of true ones, from 0."""
    column = torch.arange(flags.shape[1]).expand_as(flags)
    last_false = torch.where(flags, -1, column).cummax(dim=1).values
    return column - last_false - 1


@torch.no_grad()
def encode_patched(crosscoder: Crosscoder, batch: EffectBatch) -> SparseCodes:
    """Thresholded codes of the patched tokens, numbered document by document."""
    rows = batch.activations[batch.patched]
    n_chunk = max(1, CHUNK_BYTES // (4 * crosscoder.config.n_latents))
    parts = []
    for start in range(0, len(rows), n_chunk):
        z = crosscoder.normalise(rows[start : start + n_chunk].to(crosscoder.W_dec.device))
        codes = crosscoder.encode_thresholded(z)
        parts.append((codes.token + start, codes.latent, codes.value))
    if not parts:
        none = torch.zeros(0, dtype=torch.int64)
        return SparseCodes(none, none, torch.zeros(0))
    token, latent, value = (torch.cat(each) for each in zip(*parts, strict=True))
    return SparseCodes(token, latent, value)
