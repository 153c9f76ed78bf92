"""Which latents come again when the crosscoder is trained with another seed.

A latent's direction is its decoder row over all models, (M * d,), in the space in which the
crosscoders reconstruct. Crosscoders of one study normalise alike, so their rows are comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from crosscoder.config import STABLE_FROM
from crosscoder.model import Crosscoder

REAPPEARS_ABOVE = 0.7
"""Cosine of a counterpart; below it two directions share less than half of their variance."""
RARER_BY = 10.0
"""Ratio of densities up to which a counterpart counts. A latent that fires far more rarely than the
row it resembles is a copy of that row's concept that got stuck beside it, not the concept again."""
SPAN_SIZE = 10
"""Nearest rows of another crosscoder whose span a direction is projected on."""
CHUNK_BYTES = 64 << 20
"""Memory of a block of cosines, and of the rows that a block of latents is projected on."""


@dataclass(frozen=True)
class SeedStability:
    """The latents of one crosscoder beside S others of the same models; F latents."""

    best_cosine: torch.Tensor
    """(S, F) float32: largest cosine with a row of each other crosscoder; 0 for a zero row."""
    best_index: torch.Tensor
    """(S, F) int64: the row that has it."""
    span_match: torch.Tensor
    """(S, F) float32: share of the direction's squared length within the span of its `SPAN_SIZE`
    nearest rows, R^2. At least best_cosine ^ 2; about SPAN_SIZE / (M * d) for random rows."""
    has_counterpart: torch.Tensor
    """(S, F) bool: whether one of the nearest rows has a cosine above `REAPPEARS_ABOVE` and, where
    densities are known, fires at most `RARER_BY` times as often or as rarely."""

    @property
    def p_reappear(self) -> torch.Tensor:
        """(F,) share of the other crosscoders with a counterpart."""
        return self.has_counterpart.double().mean(0)

    @property
    def is_stable(self) -> torch.Tensor:
        """(F,) bool: whether it comes again in at least half of the others."""
        return self.p_reappear >= STABLE_FROM

    @property
    def mean_best_cosine(self) -> torch.Tensor:
        """(F,) largest cosine, mean over the others."""
        return self.best_cosine.double().mean(0)

    @property
    def mean_span_match(self) -> torch.Tensor:
        """(F,) R^2, mean over the others."""
        return self.span_match.double().mean(0)


@torch.no_grad()
def seed_stability(
    crosscoder: Crosscoder,
    others: Sequence[Crosscoder],
    densities: Sequence[torch.Tensor] | None = None,
) -> SeedStability:
    """Compare the decoder rows of a crosscoder with those of `others`, a block at a time.

    `densities` are those of the crosscoder's latents (F,) and then of the others'; without them a
    counterpart may fire as often as it will. ValueError where there are no others, or one has
    other models, another width or other scales.
    """
    if not others:
        raise ValueError("stability needs a crosscoder of another seed")
    for other in others:
        _require_same_space(crosscoder, other)
    own, *rows = (_unit_rows(each) for each in (crosscoder, *others))
    # Equal densities exclude nothing.
    first, *rest = densities or [torch.ones(len(each)) for each in (own, *rows)]
    found = [
        _nearest((own, first), (other, density)) for other, density in zip(rows, rest, strict=True)
    ]
    return SeedStability(*(torch.stack(parts) for parts in zip(*found, strict=True)))


def _require_same_space(one: Crosscoder, other: Crosscoder) -> None:
    if one.W_dec.shape[1:] != other.W_dec.shape[1:]:
        raise ValueError(
            f"decoder rows of shape {tuple(other.W_dec.shape[1:])} beside "
            f"{tuple(one.W_dec.shape[1:])}"
        )
    if one.config.model_names != other.config.model_names:
        raise ValueError(f"models {other.config.model_names} beside {one.config.model_names}")
    if not torch.allclose(one.act_scale, other.act_scale):
        raise ValueError("the crosscoders normalise activations by different scales")


def _unit_rows(crosscoder: Crosscoder) -> torch.Tensor:
    """Decoder rows (F, M * d) of length 1; zero rows stay zero."""
    rows = crosscoder.W_dec.detach().flatten(1).float().cpu()
    return torch.nn.functional.normalize(rows, dim=1)


def _nearest(
    own: tuple[torch.Tensor, torch.Tensor], other: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """Best cosine, its row, span match and whether there is a counterpart, each (F,).

    `own` and `other` are unit rows (F, D), (G, D) and densities (F,), (G,).
    """
    there, their_density = other
    n_near = min(SPAN_SIZE, len(there))
    size = max(1, CHUNK_BYTES // (4 * max(len(there), n_near * there.shape[1])))
    parts = []
    for rows, density in zip(own[0].split(size), own[1].split(size), strict=True):
        cosine, index = (rows @ there.T).topk(n_near, dim=1)
        near, mine = their_density[index], density[:, None]
        alike = (near > 0) & (near <= RARER_BY * mine) & (mine <= RARER_BY * near)
        is_found = ((cosine > REAPPEARS_ABOVE) & alike).any(1)
        parts.append((cosine[:, 0], index[:, 0], _span_match(rows, there[index]), is_found))
    return tuple(torch.cat(each) for each in zip(*parts, strict=True))


def _span_match(rows: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
    """Squared length (n,) of rows (n, D) projected on the span of near (n, k, D).

    By the eigenvectors of the Gram matrix, so that rows that are equal or zero count once or not.
    """
    values, vectors = torch.linalg.eigh((near @ near.mT).double())
    along = (vectors.mT @ (near @ rows[:, :, None]).double()).squeeze(2)
    is_direction = values > 1e-6
    squares = along.square() / values.where(is_direction, torch.ones_like(values))
    share: torch.Tensor = squares.where(is_direction, torch.zeros_like(squares)).sum(1)
    return share.clamp(0, 1).float()
