"""Which documents go together: shards of whole documents, and batches of like length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crosscoder.corpus import TokenizedDocument


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
    """Group documents of like length so that a padded batch has at most `batch_tokens` tokens.

    Yields indices into `lengths`; a longer document is a batch of its own, an empty one is none.
    """
    order = sorted((i for i, length in enumerate(lengths) if length), key=lengths.__getitem__)
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) + 1) * lengths[index] > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def padding_share(lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> float:
    """Share of the positions that the models read of these batches which hold no token."""
    positions = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    tokens = sum(lengths[i] for batch in batches for i in batch)
    return 1 - tokens / positions if positions else 0.0
