"""What every document adds to the sums of latent scaling: the units of the randomisation test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

MAX_GROUPS = 2048
"""Most groups of documents. A corpus of more documents is dealt into so many groups: finer ones
would take memory and, beyond some hundreds, add no power."""
_MERGE_ROWS = 1 << 22
"""Rows that are gathered before equal (group, latent) pairs are added up."""


@dataclass(frozen=True)
class DocumentSums:
    """The sums of `ScalingSums` per group of documents, sparse: one row for each (group, latent).

    A group is one document in a corpus of at most MAX_GROUPS. n rows, ascending by group, then
    latent; t is a decoder, m a model.
    """

    n_groups: int
    group: NDArray[np.int32]
    """(n,)"""
    latent: NDArray[np.int32]
    """(n,)"""
    square: NDArray[np.float32]
    """(n,) sum f^2"""
    residual: NDArray[np.float32]
    """(n, M, M) sum f <d^t, e^m>"""
    reconstruction: NDArray[np.float32]
    """(n, M, M) sum f <d^t, xhat^m>"""

    def total_square(self, n_latents: int) -> NDArray[np.float64]:
        """(F,) sum f^2 over all groups."""
        return np.bincount(self.latent, self.square, n_latents).astype(np.float64)


class SparseRowSums:
    """Adds up rows of columns by (group, latent).

    Memory is bounded by the rows of the result and a constant.
    """

    def __init__(self, n_latents: int, n_columns: int) -> None:
        self._n_latents = n_latents
        self._n_columns = n_columns
        self._keys: list[NDArray[np.int64]] = []
        self._values: list[NDArray[np.float32]] = []
        self._n_rows = 0
        self._merge_at = _MERGE_ROWS

    def add(self, group: torch.Tensor, latent: torch.Tensor, values: torch.Tensor) -> None:
        """Add rows (n,), (n,) and (n, n_columns)."""
        self._keys.append((group * self._n_latents + latent).cpu().numpy())
        self._values.append(values.float().cpu().numpy())
        self._n_rows += len(self._keys[-1])
        if self._n_rows > self._merge_at:
            self._merge()
            self._merge_at = 2 * self._n_rows + _MERGE_ROWS

    def _merge(self) -> None:
        keys, values = np.concatenate(self._keys), np.concatenate(self._values)
        order = np.argsort(keys, kind="stable")
        merged, starts = np.unique(keys[order], return_index=True)
        self._keys = [merged]
        self._values = [np.add.reduceat(values[order], starts, axis=0) if len(merged) else values]
        self._n_rows = len(merged)

    def finish(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
        """Group (n,), latent (n,) and sums (n, n_columns), ascending by group, then latent."""
        if not self._keys:
            none = torch.empty(0, dtype=torch.int64)
            self.add(none, none, torch.empty(0, self._n_columns))
        self._merge()
        keys = self._keys[0]
        group = (keys // self._n_latents).astype(np.int32)
        return group, (keys % self._n_latents).astype(np.int32), self._values[0]


class DocumentSumsBuilder:
    """Gathers the sums of a pass of latent scaling."""

    def __init__(self, n_groups: int, n_latents: int, n_models: int) -> None:
        self._n_groups = n_groups
        self._n_models = n_models
        self._sums = SparseRowSums(n_latents, 1 + 2 * n_models**2)

    def add(self, group: torch.Tensor, latent: torch.Tensor, values: torch.Tensor) -> None:
        """Add rows (n,), (n,) and (n, 1 + 2 M^2): square, residual, reconstruction."""
        self._sums.add(group, latent, values)

    def finish(self) -> DocumentSums:
        """Everything added so far."""
        group, latent, values = self._sums.finish()
        square = self._n_models**2
        shape = (-1, self._n_models, self._n_models)
        return DocumentSums(
            n_groups=self._n_groups,
            group=group,
            latent=latent,
            square=np.ascontiguousarray(values[:, 0]),
            residual=np.ascontiguousarray(values[:, 1 : 1 + square]).reshape(shape),
            reconstruction=np.ascontiguousarray(values[:, 1 + square :]).reshape(shape),
        )
