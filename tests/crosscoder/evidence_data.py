"""A small store whose latents fire where one wants them to, for the tests of evidence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from crosscoder.activations import ActivationStore, write_store
from crosscoder.corpus import TokenRole
from crosscoder.evidence import Evidence, EvidenceConfig
from crosscoder.model import Crosscoder, CrosscoderConfig

N_DOCUMENTS, LENGTH = 120, 24
CONFIG = EvidenceConfig(top=6, quantile=8, negative=6, window=8, seed=7)


class WordTokenizer:
    """Token i reads " wi"."""

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "".join(f" w{i}" for i in ids)


def coordinate_crosscoder() -> Crosscoder:
    """Latent j fires where coordinate j of model a exceeds 0.5; latent 5 never."""
    config = CrosscoderConfig(n_models=2, d_model=6, n_latents=6, k=2, model_names=("a", "b"))
    crosscoder = Crosscoder(config)
    with torch.no_grad():
        crosscoder.W_enc[0] = torch.eye(6)
        crosscoder.W_dec[:, 0] = torch.eye(6)
    crosscoder.b_enc.data[5] = -100
    crosscoder.theta.fill_(0.5)
    return crosscoder


def activations() -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    x = torch.zeros(N_DOCUMENTS, LENGTH, 2, 6)
    for latent, share in ((0, 0.5), (1, 0.2), (2, 0.05), (3, 1.0), (4, 0.5)):
        firing = torch.rand(N_DOCUMENTS, generator=g) < share
        where = torch.rand(N_DOCUMENTS, LENGTH, generator=g) < 0.2
        where[torch.arange(N_DOCUMENTS), torch.randint(6, LENGTH, (N_DOCUMENTS,), generator=g)] = 1
        value = 0.6 + torch.rand(N_DOCUMENTS, LENGTH, generator=g)
        x[:, :, 0, latent] = value * (where & firing[:, None])
    return x.flatten(0, 1)


def make_store(directory: Path, shard_tokens: int = 500, **changes: Any) -> ActivationStore:
    n = N_DOCUMENTS * LENGTH
    position = torch.arange(n) % LENGTH
    roles = torch.full((n,), int(TokenRole.USER))
    roles[position < 3] = int(TokenRole.TEMPLATE)
    columns: dict[str, Any] = {
        "document": torch.arange(n) // LENGTH,
        "token_ids": torch.randint(0, 5000, (n,), generator=torch.Generator().manual_seed(1)),
        "roles": roles,
        "mask": position >= 5,
        "model_names": ("a", "b"),
    }
    columns |= changes
    return write_store(directory, activations(), shard_tokens=shard_tokens, **columns)


def document_of(item: Evidence) -> int:
    return int(item.document_id.removeprefix("document-"))


def of_kind(evidence: list[Evidence], latent: int, kind: str) -> list[Evidence]:
    return [item for item in evidence if item.latent_index == latent and item.kind == kind]
