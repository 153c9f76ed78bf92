"""Which tokens take part in training, scaling and evidence: one mask for all three."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from crosscoder.corpus import CONTENT_ROLES


def content_tokens(roles: torch.Tensor) -> torch.Tensor:
    """(n,) bool, true where the role (n,) is that of a user's, an assistant's or plain text."""
    return torch.isin(roles, torch.tensor([int(role) for role in CONTENT_ROLES]).to(roles.dtype))


def median_norms(norms: Sequence[torch.Tensor], roles: Sequence[torch.Tensor]) -> torch.Tensor:
    """Median L2 norm (M,) of the content tokens, from norms (n, M) and roles (n,) per shard.

    NaN where there is no content token.
    """
    content = [part[content_tokens(role)] for part, role in zip(norms, roles, strict=True)]
    if not any(len(part) for part in content):
        return torch.full((norms[0].shape[1],), torch.nan)
    return torch.cat(content).median(dim=0).values


def token_mask(
    norms: torch.Tensor,
    roles: torch.Tensor,
    document: torch.Tensor,
    medians: torch.Tensor,
    skip_first: int,
    max_norm_ratio: float,
) -> torch.Tensor:
    """(n,) bool over tokens of whole documents: content, not first, of ordinary norm.

    The first `skip_first` content tokens of a document are left out, as are tokens whose norm
    (n, M) exceeds `max_norm_ratio` times the median (M,) in any model: both carry outlier norms
    that have nothing to do with their meaning.
    """
    content = content_tokens(roles)
    counted = content.long().cumsum(0)
    first = torch.searchsorted(document, document)
    before_document = counted[first] - content[first].long()
    rank = counted - before_document
    ordinary = (norms <= max_norm_ratio * medians).all(dim=1)
    return content & (rank > skip_first) & ordinary
