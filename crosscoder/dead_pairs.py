"""The (token, latent) pairs of AuxK: few latents, many pairs each."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from crosscoder.kernels import order_by_latent, pair_products, sum_rows

DENSE_FROM = 0.1
"""Share of (token, dead latent) that is active from which dense products are the faster ones."""


@dataclass(frozen=True)
class DeadPairs:
    """Pairs in ascending order of token, then latent, all of them of dead latents.

    Where many of the dead latents are active, the products are dense over (B, n_dead); elsewhere
    they touch the pairs alone. Either way n_dead is all that their memory grows with.
    """

    token: torch.Tensor
    """(n,)"""
    latent: torch.Tensor
    """(n,) latent index."""
    column: torch.Tensor
    """(n,) position in `dead`."""
    dead: torch.Tensor
    """(n_dead,) ascending latent indices."""
    n_tokens: int

    @classmethod
    def of(
        cls, token: torch.Tensor, latent: torch.Tensor, dead: torch.Tensor, n_tokens: int
    ) -> DeadPairs:
        """The pairs with their columns."""
        return cls(token, latent, torch.searchsorted(dead, latent), dead, n_tokens)

    @property
    def is_dense(self) -> bool:
        """Whether the products are dense."""
        return self.token.numel() > DENSE_FROM * self.n_tokens * self.dead.numel()

    def decode(self, value: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """sum_j value_ij rows_j for every token i: (B, D), of rows (F, D)."""
        if self.is_dense:
            return self._matrix(value) @ rows.index_select(0, self.dead)
        return sum_rows(rows, self.token, self.latent, value, self.n_tokens)

    def products(self, left: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """<left_i, rows_j> of every pair: (n,), of left (B, D) and rows (F, D)."""
        if self.is_dense:
            products = left @ rows.index_select(0, self.dead).T
            return products[self.token, self.column]
        found = left.new_empty(self.token.numel())
        order = order_by_latent(self.latent, rows.shape[0])
        found[order] = pair_products(rows, left, self.latent[order], self.token[order])
        return found

    def add_outer(self, out: torch.Tensor, value: torch.Tensor, left: torch.Tensor) -> None:
        """out_j += sum_i value_ij left_i for the dead latents j, in place, of out (F, D)."""
        if self.is_dense:
            summed = self._matrix(value).T @ left
        else:
            order = order_by_latent(self.column, self.dead.numel())
            pairs = self.column[order], self.token[order], value[order]
            summed = sum_rows(left, *pairs, self.dead.numel())
        out.index_add_(0, self.dead, summed)

    def _matrix(self, value: torch.Tensor) -> torch.Tensor:
        """(B, n_dead) values, 0 where there is no pair."""
        matrix = value.new_zeros(self.n_tokens, self.dead.numel())
        matrix[self.token, self.column] = value
        return matrix
