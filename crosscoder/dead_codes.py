"""AuxK's codes: what the dead latents would say of a batch, and the products with it.

Few latents with many active tokens each suit dense products over (B, n_dead); many latents with
few suit products that touch the active pairs alone. Both forms have the same methods.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from crosscoder.kernels import order_by_latent, pair_products, sum_rows, true_positions
from crosscoder.selection import Preactivations

DENSE_FROM = 0.1
"""Share of active (token, dead latent) places from which the dense form is the faster one."""
RANKED_AT_ONCE = 1 << 22
"""Activations of dead latents that are ranked at a time where the dense form is out of reach."""


class DeadCodes(Protocol):
    """Which activations of dead latents are kept; the values travel beside, for autograd."""

    def decode(self, value: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """sum_j value_ij rows_j over the dead latents j: (B, D), of rows (F, D)."""

    def products(self, left: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """<left_i, rows_j> where a value is kept, shaped like the values; left is (B, D)."""

    def add_outer(self, out: torch.Tensor, value: torch.Tensor, left: torch.Tensor) -> None:
        """out_j += sum_i value_ij left_i for the dead latents j, in place; out is (F, D)."""

    def silent(self) -> torch.Tensor:
        """Dead latents of which no activation is kept: AuxK has no gradient for them."""


def select_dead(
    pre: Preactivations, dead: torch.Tensor, k_token: int
) -> tuple[DeadCodes, torch.Tensor]:
    """Each token's `k_token` largest v > 0 among the latents `dead` (n_dead,), ascending.

    Returns the codes and their unscaled values, of the shape that the codes ask for. Beside the
    values, memory is bounded by 10 * B * k_token or `RANKED_AT_ONCE` activations.
    """
    n_tokens, n_dead = pre.product.shape[0], dead.numel()
    if n_tokens == 0 or k_token > DENSE_FROM * n_dead:
        block, kept = _largest(pre, dead, k_token, slice(None))
        if int(kept.sum()) > DENSE_FROM * kept.numel():
            return DeadBlock(kept, dead), block * kept
        token, column, value = _sparse(block, kept, 0)
        return DeadPairs(token, column, dead, n_tokens), value
    at_once = max(1, RANKED_AT_ONCE // n_dead)
    parts = [
        _sparse(*_largest(pre, dead, k_token, slice(start, start + at_once)), start)
        for start in range(0, n_tokens, at_once)
    ]
    token, column, value = (torch.cat(each) for each in zip(*parts, strict=True))
    return DeadPairs(token, column, dead, n_tokens), value


def _sparse(
    block: torch.Tensor, kept: torch.Tensor, first_token: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token, column and value of the kept places, in order."""
    position = true_positions(kept)
    token = position // kept.shape[1]
    column = position - token * kept.shape[1]
    return token + first_token, column, block.flatten().index_select(0, position)


def _largest(
    pre: Preactivations, dead: torch.Tensor, k_token: int, rows: slice
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pre-activations (n, n_dead) of some tokens, and which of them are kept."""
    block = pre.product[rows].index_select(1, dead)
    if pre.bias is not None:
        block += pre.bias.index_select(0, dead)
    weighted = block if pre.weight is None else block * pre.weight.index_select(0, dead)
    kept = weighted > 0
    if k_token < dead.numel():
        largest = torch.topk(weighted, k_token, dim=1, sorted=False).indices
        kept &= torch.zeros_like(kept).scatter_(1, largest, True)
    return block, kept


@dataclass(frozen=True)
class DeadBlock:
    """Codes whose values are a (B, n_dead) tensor, 0 where nothing is kept."""

    kept: torch.Tensor
    """(B, n_dead) bool"""
    dead: torch.Tensor
    """(n_dead,) ascending latent indices."""

    def decode(self, value: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """See `DeadCodes`."""
        return value @ rows.index_select(0, self.dead)

    def products(self, left: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """See `DeadCodes`."""
        return (left @ rows.index_select(0, self.dead).T).mul_(self.kept)

    def add_outer(self, out: torch.Tensor, value: torch.Tensor, left: torch.Tensor) -> None:
        """See `DeadCodes`."""
        out.index_add_(0, self.dead, value.T @ left)

    def silent(self) -> torch.Tensor:
        """See `DeadCodes`."""
        return self.dead[~self.kept.any(0)]


@dataclass(frozen=True)
class DeadPairs:
    """Codes whose values are a column (n,), in ascending order of token, then latent."""

    token: torch.Tensor
    """(n,)"""
    column: torch.Tensor
    """(n,) position in `dead`."""
    dead: torch.Tensor
    """(n_dead,) ascending latent indices."""
    n_tokens: int

    def decode(self, value: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """See `DeadCodes`."""
        return sum_rows(rows, self.token, self.dead[self.column], value, self.n_tokens)

    def products(self, left: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """See `DeadCodes`."""
        found = left.new_empty(self.token.numel())
        order = order_by_latent(self.column, self.dead.numel())
        latent = self.dead[self.column[order]]
        found[order] = pair_products(rows, left, latent, self.token[order])
        return found

    def add_outer(self, out: torch.Tensor, value: torch.Tensor, left: torch.Tensor) -> None:
        """See `DeadCodes`."""
        order = order_by_latent(self.column, self.dead.numel())
        pairs = self.column[order], self.token[order], value[order]
        out.index_add_(0, self.dead, sum_rows(left, *pairs, self.dead.numel()))

    def silent(self) -> torch.Tensor:
        """See `DeadCodes`."""
        fires = torch.zeros_like(self.dead, dtype=torch.bool)
        fires[self.column] = True
        return self.dead[~fires]
