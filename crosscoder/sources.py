"""What latent scaling and evidence read: activations with their text, from a disk or a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from crosscoder.document_tokens import DocumentTokens
from crosscoder.shards import Shard


class ActivationSource(Protocol):
    """Activations of M models at the same tokens, with the text they belong to."""

    @property
    def model_names(self) -> tuple[str, ...]:
        """Names of the models, in the order of the model axis."""

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""

    @property
    def n_tokens(self) -> int:
        """Tokens of all shards."""

    @property
    def n_unmasked(self) -> int:
        """Tokens that take part, as far as it is known before they are read."""

    @property
    def document_ids(self) -> tuple[str, ...]:
        """Identifier of each document by document index."""

    @property
    def document_lengths(self) -> tuple[int, ...]:
        """Tokens of each document by document index."""

    def shards(self) -> Iterator[Shard]:
        """All shards in order, whole documents each, indices ascending."""

    def document_tokens(self, documents: Sequence[int]) -> dict[int, DocumentTokens]:
        """The tokens of some documents, without their activations."""
