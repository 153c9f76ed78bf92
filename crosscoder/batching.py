"""Which documents go together: shards of whole documents, and batches of like length."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from crosscoder.corpus import TokenizedDocument

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
