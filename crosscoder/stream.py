"""Activations straight from the models, without a cache: every pass is a forward pass."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from crosscoder.corpus import Document, DocumentTokens, TokenizedDocument, document_units
from crosscoder.errors import InputError
from crosscoder.files import DamagedFileError
from crosscoder.harvest import (
    HarvestConfig,
    HarvestInputs,
    content_tokens,
    harvest_inputs,
    median_norms,
    no_content,
    read_text,
    token_mask,
)
from crosscoder.manifest import (
    STREAM_NAME,
    StreamManifest,
    TextPlan,
    read_stream_manifest,
    write_stream_manifest,
)
from crosscoder.model_files import SubjectSpec
from crosscoder.progress import Progress
from crosscoder.reading import CorpusReader, open_readers, plan_shards
from crosscoder.shards import Shard, ShardTokens
from crosscoder.sources import draw_held_out

logger = logging.getLogger(__name__)

SAMPLE_TOKENS = 65536
"""Tokens of random documents that set the norms of the mask and the scales of training."""
_SAMPLE_SEED = 0


class ActivationStream:
    """The residual stream of M models at the same tokens, computed again in every pass.

    Reads as `crosscoder.sources.ActivationSource`; `crosscoder.training_sources` trains on it.
    """

    def __init__(
        self,
        manifest: StreamManifest,
        tokenized: Sequence[TokenizedDocument],
        config: HarvestConfig,
        models: SubjectModels,
        held_out: torch.Tensor | None = None,
    ) -> None:
        """`held_out` (n_documents,) bool is true where a document is kept from training."""
        self.manifest = manifest
        self.tokenized = tokenized
        self.config = config
        self.held_out = held_out
        self._models = models

    @property
    def n_models(self) -> int:
        """M, the number of models."""
        return len(self.model_names)

    @property
    def d_model(self) -> int:
        """Width d of the residual stream."""
        return self.manifest.d_model

    @property
    def model_names(self) -> tuple[str, ...]:
        """Names of the models, in the order of the model axis."""
        return tuple(subject.name for subject in self.manifest.source.subjects)

    @property
    def n_tokens(self) -> int:
        """Tokens of the corpus, masked ones included."""
        return sum(self.document_lengths)

    @property
    def n_documents(self) -> int:
        """Documents of the corpus."""
        return len(self.tokenized)

    @property
    def n_unmasked(self) -> int:
        """Tokens that take part, estimated from the sample."""
        return self.estimated_rows(range(self.n_documents))

    @property
    def document_ids(self) -> tuple[str, ...]:
        """Identifier of each document by document index."""
        return tuple(document.document_id for document in self.tokenized)

    @property
    def document_lengths(self) -> tuple[int, ...]:
        """Tokens of each document by document index."""
        return tuple(len(document.token_ids) for document in self.tokenized)

    @property
    def document_units(self) -> tuple[int, ...]:
        """Independent unit of each document; see `crosscoder.corpus.document_units`."""
        return document_units(self.tokenized)

    def document_tokens(self, documents: Sequence[int]) -> dict[int, DocumentTokens]:
        """The tokens of some documents; their mask leaves out what only the norms would tell."""
        found = {}
        for index in documents:
            document = self.tokenized[index]
            eligible = _eligible(document, self.config.skip_first)
            found[index] = DocumentTokens(document.token_ids, document.roles, eligible)
        return found

    def shards(self) -> Iterator[Shard]:
        """All documents in corpus order, read by the models as they are asked for."""
        for index, members in enumerate(plan_shards(self.tokenized, self.config.shard_tokens)):
            yield self.read(list(members), index)

    def read(self, documents: Sequence[int], index: int = 0) -> Shard:
        """Have the models read some documents, given by index."""
        tokens = self._models.read(documents)
        return Shard(
            index=index,
            activations=tokens.activations.float(),
            token_ids=tokens.token_ids,
            roles=tokens.roles,
            document=tokens.document,
            position=tokens.position,
            mask=_mask(tokens, torch.tensor(self.manifest.median_norms), self.config),
        )

    def read_documents(self, documents: Sequence[int]) -> Iterator[Shard]:
        """Some documents, by ascending index, about `shard_tokens` in memory at a time."""
        chosen = [self.tokenized[index] for index in documents]
        for index, members in enumerate(plan_shards(chosen, self.config.shard_tokens)):
            yield self.read([documents[member] for member in members], index)

    def split(self, held_out: float, seed: int) -> ActivationStream:
        """The same stream with a random share of its documents held out from training.

        Documents of one unit are on one side. InputError where fewer than two units have tokens to
        train on.
        """
        chosen = draw_held_out(self.manifest.n_eligible, self.document_units, held_out, seed)
        return ActivationStream(self.manifest, self.tokenized, self.config, self._models, chosen)

    def estimated_rows(self, documents: Sequence[int]) -> int:
        """Unmasked tokens of some documents, estimated from the sample."""
        eligible = sum(self.manifest.n_eligible[i] for i in documents)
        return int(eligible * self.manifest.ordinary_share)


class SubjectModels:
    """The subject models, loaded when a document is first read."""

    def __init__(
        self,
        inputs: HarvestInputs,
        tokenized: Sequence[TokenizedDocument],
        config: HarvestConfig,
    ) -> None:
        self._inputs = inputs
        self._tokenized = tokenized
        self._config = config
        self._reader: CorpusReader | None = None

    def read(self, documents: Sequence[int]) -> ShardTokens:
        """What the models say to some documents, one document after the other."""
        if self._reader is None:
            config, facts = self._config, self._inputs.facts
            readers = open_readers(facts, self._tokenized, config.layer, config.device)
            self._reader = CorpusReader(
                readers, facts[0].d_model, config.batch_tokens, config.storage_dtype
            )
        return self._reader.read([self._tokenized[i] for i in documents], lambda n: None)


def open_stream(
    specs: Sequence[SubjectSpec],
    documents: Sequence[Document],
    config: HarvestConfig,
    directory: Path,
    progress: Progress | None = None,
    cache_dir: Path | None = None,
    today: dt.date | None = None,
) -> ActivationStream:
    """A stream over these models and documents; what a sample shows is kept in `directory`.

    The models read a random sample once, for the median norms of the mask; later calls find them
    in `stream.json`, with the day that the chat template's clock shows: `config.date`, else that of
    the first call (`today`, or the machine's day). A damaged file is named and made again.

    Raises InputError as `crosscoder.harvest.harvest` does, and where the corpus has other tokens
    than before.
    """
    inputs = harvest_inputs(specs, documents, config, progress, cache_dir)
    try:
        manifest = read_stream_manifest(directory)
    except DamagedFileError as error:
        logger.warning("%s", error)
        manifest = None
    begun = manifest.plan.date if manifest is not None and manifest.plan is not None else today
    corpus = read_text(inputs, documents, config, begun)
    models = SubjectModels(inputs, corpus.documents, config)
    plan = corpus.plan(plan_shards(corpus.documents, config.shard_tokens))
    if manifest is None:
        manifest = _look_at_sample(inputs, corpus.documents, plan, config, models)
        write_stream_manifest(directory, manifest)
    if manifest.source.key != inputs.source.key:
        raise InputError(
            f"{directory / STREAM_NAME}: a stream of other models, text or settings; "
            f"remove {directory}"
        )
    if manifest.plan is None or manifest.plan.sha256 != plan.sha256:
        raise InputError(
            f"{directory / STREAM_NAME}: the corpus has other tokens than when the sample was "
            f"looked at (another version of the tokenizer or of this program?); remove {directory}"
        )
    return ActivationStream(manifest, corpus.documents, config, models)


def sample_documents(
    tokenized: Sequence[TokenizedDocument], among: Sequence[int], n_tokens: int = SAMPLE_TOKENS
) -> list[int]:
    """Random documents of about `n_tokens` tokens, in corpus order; the same on every call."""
    order = np.random.default_rng(_SAMPLE_SEED).permutation(np.asarray(among, dtype=np.int64))
    lengths = np.array([len(tokenized[i].token_ids) for i in order])
    n_taken = int(np.searchsorted(np.cumsum(lengths), n_tokens)) + 1
    return sorted(order[:n_taken].tolist())


def _look_at_sample(
    inputs: HarvestInputs,
    tokenized: Sequence[TokenizedDocument],
    plan: TextPlan,
    config: HarvestConfig,
    models: SubjectModels,
) -> StreamManifest:
    n_eligible = [int(_eligible(document, config.skip_first).sum()) for document in tokenized]
    usable = [index for index, count in enumerate(n_eligible) if count]
    if not usable:
        raise InputError(no_content(config))
    sample = sample_documents(tokenized, usable)
    eligible = sum(n_eligible[i] for i in sample)
    tokens = models.read(sample)
    norms = median_norms([tokens.norms], [tokens.roles])
    kept = int(_mask(tokens, norms, config).sum())
    return StreamManifest(
        source=inputs.source,
        plan=plan,
        d_model=inputs.facts[0].d_model,
        median_norms=tuple(norms.tolist()),
        n_sampled=len(tokens.token_ids),
        ordinary_share=kept / eligible,
        n_eligible=tuple(n_eligible),
    )


def _mask(tokens: ShardTokens, medians: torch.Tensor, config: HarvestConfig) -> torch.Tensor:
    return token_mask(
        tokens.norms,
        tokens.roles,
        tokens.document,
        medians,
        config.skip_first,
        config.max_norm_ratio,
    )


def _eligible(document: TokenizedDocument, skip_first: int) -> NDArray[np.bool_]:
    """(n,) content tokens behind the first ones: what the mask lets through but for the norms."""
    content = content_tokens(torch.from_numpy(document.roles)).numpy()
    eligible: NDArray[np.bool_] = content & (np.cumsum(content) > skip_first)
    return eligible
