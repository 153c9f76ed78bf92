"""All subject models reading the same documents, batch by batch, in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from crosscoder.batching import plan_batches
from crosscoder.corpus import TokenizedDocument
from crosscoder.progress import Advance
from crosscoder.residual import Batch, ResidualReader, pad
from crosscoder.shards import STORAGE_DTYPES, ShardTokens
from crosscoder.subjects import SubjectFacts, load_subject


@dataclass(frozen=True)
class PlacedBatch:
    """Some documents side by side, and where their tokens lie among all that were asked for."""

    batch: Batch
    rows: torch.Tensor
    """(n,) int64 row of each real token, document by document."""


class CorpusReader:
    """Reads documents with every model and returns what they say in document order."""

    def __init__(
        self,
        readers: Sequence[ResidualReader],
        d_model: int,
        batch_tokens: int,
        storage_dtype: str,
    ) -> None:
        """`storage_dtype` is a key of STORAGE_DTYPES; batches hold about `batch_tokens`."""
        self._readers = readers
        self._d_model = d_model
        self._batch_tokens = batch_tokens
        self._storage_dtype = storage_dtype

    def read(self, documents: Sequence[TokenizedDocument], advance: Advance) -> ShardTokens:
        """Have every model read some whole documents, in padded batches of like length."""
        shard = self._unread(documents)
        for placed in place_batches(documents, self._batch_tokens):
            for m, reader in enumerate(self._readers):
                hidden = reader.read(placed.batch)
                shard.norms[placed.rows, m] = hidden.float().norm(dim=-1).cpu()
                shard.activations[placed.rows, m] = reader.stored(hidden, self._storage_dtype)
            advance(len(placed.rows))
        return shard

    def _unread(self, documents: Sequence[TokenizedDocument]) -> ShardTokens:
        """The tokens of the documents, with room for what the models will say."""
        columns = token_columns(documents)
        n, n_models = len(columns.token_ids), len(self._readers)
        dtype = STORAGE_DTYPES[self._storage_dtype]
        return ShardTokens(
            activations=torch.empty(n, n_models, self._d_model, dtype=dtype),
            norms=torch.empty(n, n_models),
            token_ids=columns.token_ids,
            roles=columns.roles,
            document=columns.document,
            position=columns.position,
        )


def place_batches(
    documents: Sequence[TokenizedDocument], batch_tokens: int
) -> Iterator[PlacedBatch]:
    """The padded batches in which documents are read."""
    lengths = [len(document.token_ids) for document in documents]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    for members in plan_batches(lengths, batch_tokens):
        rows = np.concatenate([np.arange(*starts[i : i + 2]) for i in members])
        yield PlacedBatch(pad([documents[i].token_ids for i in members]), torch.from_numpy(rows))


@dataclass(frozen=True)
class TokenColumns:
    """What is known of the tokens of whole documents without any model."""

    token_ids: torch.Tensor
    """(n,) int32."""
    roles: torch.Tensor
    """(n,) uint8 TokenRole."""
    document: torch.Tensor
    """(n,) int32 index of the document in the corpus."""
    position: torch.Tensor
    """(n,) int32 position within the document."""


def token_columns(documents: Sequence[TokenizedDocument]) -> TokenColumns:
    """The tokens of some documents, one document after the other."""
    lengths = [len(document.token_ids) for document in documents]
    indices = [document.document_index for document in documents]
    return TokenColumns(
        token_ids=torch.from_numpy(np.concatenate([d.token_ids for d in documents])),
        roles=torch.from_numpy(np.concatenate([d.roles for d in documents])),
        document=torch.from_numpy(np.repeat(indices, lengths).astype(np.int32)),
        position=torch.from_numpy(np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])),
    )


def open_readers(
    subjects: Sequence[SubjectFacts],
    tokenized: Sequence[TokenizedDocument],
    layer: int,
    device: str,
) -> list[ResidualReader]:
    """Load every model and check that it can read these tokens; `auto` takes a GPU."""
    highest = max(int(document.token_ids.max(initial=0)) for document in tokenized)
    longest = max(len(document.token_ids) for document in tokenized)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    readers = []
    for facts in subjects:
        reader = ResidualReader(load_subject(facts.spec, device, facts.tokenizer), layer)
        reader.require_reach(highest, longest)
        readers.append(reader)
    return readers
