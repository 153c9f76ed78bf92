"""Models reading documents batch by batch: the residual stream after one block, and no further."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from crosscoder.corpus import TokenizedDocument
from crosscoder.errors import InputError
from crosscoder.model_checks import reading
from crosscoder.models import ModelInfo, SubjectModel, load_subject
from crosscoder.progress import Advance
from crosscoder.shards import STORAGE_DTYPES, ShardTokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _BlockReached(Exception):  # noqa: N818 - it ends a forward pass and is no error
    """Carries the hidden states out of a forward pass that need not go on."""

    def __init__(self, hidden: torch.Tensor) -> None:
        super().__init__()
        self.hidden = hidden


@dataclass(frozen=True)
class Batch:
    """Some documents side by side, padded on the right."""

    input_ids: torch.Tensor
    """(B, T) int64."""
    attention_mask: torch.Tensor
    """(B, T) int64, 1 where there is a token."""


def pad(token_ids: Sequence[NDArray[np.int32]]) -> Batch:
    """Lay documents side by side; the padding's id is 0 and is never attended to."""
    longest = max(map(len, token_ids))
    input_ids = torch.zeros(len(token_ids), longest, dtype=torch.int64)
    attention_mask = torch.zeros(len(token_ids), longest, dtype=torch.int64)
    for row, ids in enumerate(token_ids):
        input_ids[row, : len(ids)] = torch.from_numpy(ids)
        attention_mask[row, : len(ids)] = 1
    return Batch(input_ids, attention_mask)


class ResidualReader:
    """Reads the output of one decoder block of a subject model.

    The blocks above it are dropped from the model, which is of no other use afterwards.
    """

    def __init__(self, subject: SubjectModel, layer: int) -> None:
        blocks = decoder_blocks(subject.model, subject.n_layers, subject.name)
        self._name = subject.name
        self._model = subject.model
        self._block = blocks[layer]
        # The forward pass never comes to them: their memory is better spent on batches.
        del blocks[layer + 1 :]

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        device: torch.device = self._model.device
        return device

    def require_reach(self, highest_id: int, longest: int) -> None:
        """InputError where the model has no such token or no such position."""
        rows = self._model.get_input_embeddings().num_embeddings
        if highest_id >= rows:
            raise InputError(
                f"model {self._name!r}: its tokenizer has the token {highest_id}, the model only "
                f"{rows}; give the tokenizer that belongs to it"
            )
        positions = getattr(self._model.config, "max_position_embeddings", None)
        if positions is not None and longest > positions:
            raise InputError(
                f"corpus.max_length: a document has {longest} tokens and model {self._name!r} "
                f"reads {positions}; set corpus.max_length to at most {positions}"
            )

    @torch.inference_mode()
    def read(self, batch: Batch) -> torch.Tensor:
        """Hidden states (n, d) after the block at the batch's n real tokens, document by document.

        InputError where they are not finite: the weights' type is too narrow for the model; or
        where its config lets no text through. WorkError where a batch does not fit into memory.
        """
        device = self._model.device
        attention_mask = batch.attention_mask.to(device)
        with reading(f"model {self._name!r}", "cannot read the text"):
            hidden = self.forward(batch.input_ids.to(device))[attention_mask.bool()]
        if not bool(hidden.isfinite().all()):
            raise InputError(
                f"model {self._name!r}: its activations overflow in {hidden.dtype}; "
                "set its dtype to bfloat16 or float32"
            )
        return hidden

    def stored(self, hidden: torch.Tensor, storage_dtype: str) -> torch.Tensor:
        """Hidden states in the storage dtype; InputError where they do not fit into it."""
        narrowed = hidden.to(STORAGE_DTYPES[storage_dtype])
        if not bool(narrowed.isfinite().all()):
            raise InputError(
                f"harvest.storage_dtype: activations of model {self._name!r} do not fit into "
                f"{storage_dtype}; use bfloat16 or float32"
            )
        return narrowed.cpu()

    @torch.inference_mode()
    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Hidden states (B, T, d) after the block, padding included, from (B, T) on the device.

        Without an attention mask: the padding lies to the right, where no real token of a causal
        model looks, and attention without a mask takes the faster kernels.
        """
        handle = self._block.register_forward_hook(_stop)
        try:
            self._model(input_ids=input_ids, use_cache=False)
        except _BlockReached as reached:
            return reached.hidden
        finally:
            handle.remove()
        raise RuntimeError("the forward pass ended before it came to the block")


def decoder_blocks(model: PreTrainedModel, n_layers: int, name: str) -> nn.ModuleList:
    """The decoder blocks of any transformers model: its module list of that length.

    InputError where there is none, or more than one such list of blocks that attend.
    """
    lists = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    ]
    if len(lists) > 1:
        lists = [blocks for blocks in lists if _attends(blocks[0])]
    if len(lists) != 1:
        raise InputError(
            f"model {name!r}: found {len(lists)} lists of {n_layers} decoder blocks in "
            f"{type(model).__name__}; this architecture is not supported"
        )
    return lists[0]


def _attends(block: nn.Module) -> bool:
    """Whether a block has a part whose name speaks of attention."""
    return any("attn" in name or "attention" in name for name, _ in block.named_modules())


def _stop(module: nn.Module, inputs: Any, output: Any) -> None:
    raise _BlockReached(output[0] if isinstance(output, tuple) else output)


BATCH_COST = 32
"""What one more forward pass costs, in positions: padding below that is not worth a pass."""


def plan_shards(tokenized: Sequence[TokenizedDocument], shard_tokens: int) -> list[range]:
    """Runs of whole documents of about `shard_tokens` tokens; the last one may be smaller."""
    plan: list[range] = []
    first = n_tokens = 0
    for index, document in enumerate(tokenized):
        n_tokens += len(document.token_ids)
        if n_tokens >= shard_tokens or (index == len(tokenized) - 1 and n_tokens):
            plan.append(range(first, index + 1))
            first, n_tokens = index + 1, 0
    return plan


def plan_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Group documents of like length into padded batches of at most `batch_tokens` positions.

    Of all ways to cut the documents, sorted by length, into batches, the one that reads the
    fewest positions, where a batch costs as much as BATCH_COST positions more. Yields indices
    into `lengths`; a longer document is a batch of its own, an empty one is none.
    """
    order = sorted((i for i, length in enumerate(lengths) if length), key=lengths.__getitem__)
    ordered = np.array([lengths[i] for i in order], dtype=np.int64)
    # best[n]: cost of the first n documents; first[n]: where the last batch of those begins.
    best = np.zeros(len(order) + 1, dtype=np.int64)
    first = np.zeros(len(order) + 1, dtype=np.int64)
    for end in range(1, len(order) + 1):
        widest = ordered[end - 1]
        low = end - max(1, min(end, batch_tokens // widest))
        starts = np.arange(low, end)
        costs = best[low:end] + (end - starts) * widest + BATCH_COST
        at = int(costs.argmin())
        best[end], first[end] = costs[at], low + at
    ends = [len(order)]
    while ends[-1]:
        ends.append(int(first[ends[-1]]))
    ends.reverse()
    for start, end in itertools.pairwise(ends):
        yield order[start:end]


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
    subjects: Sequence[ModelInfo],
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
