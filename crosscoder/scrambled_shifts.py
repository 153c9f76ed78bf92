"""Strength shifts that scrambled fine-tunes show: what a change of weights without meaning gives.

A change of the weights in random directions turns latents up and down too, and not all concepts
alike. So several scrambled fine-tunes of the true one's size (crosscoder/nulls.py) read a part of
the text, and the same dictionary measures the shift of every latent in each of them. A shift of
the true fine-tune means something where it lies outside of what these show.
"""

from __future__ import annotations

import copy
import datetime as dt
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from crosscoder.config import LEAST_SCRAMBLES
from crosscoder.corpus import Document, TokenizedDocument
from crosscoder.errors import InputError
from crosscoder.harvest import (
    HarvestConfig,
    harvest_inputs,
    median_norms,
    read_text,
    token_mask,
)
from crosscoder.memory_store import memory_store
from crosscoder.model import Crosscoder, fit_normaliser
from crosscoder.model_files import FileHashes, SubjectSpec, pinned
from crosscoder.models import inspect_subject, with_converted_weights
from crosscoder.nulls import fitted_scramble, median_change, spread_over, write_scrambled
from crosscoder.progress import Progress, SilentProgress
from crosscoder.reading import CorpusReader, open_readers
from crosscoder.scaling import latent_scaling
from crosscoder.shards import ShardTokens

FIT_DOCUMENTS = 12
"""Documents on which the size of the scrambled change is fitted."""
FIT_TOLERANCE = 0.15
"""Relative difference of the two changes that is made up for in proportion."""


@dataclass(frozen=True)
class ScrambledShifts:
    """The strength shift of every latent in K scrambled fine-tunes of one model."""

    shifts: NDArray[np.float32]
    """(K, F), brought to the size of the true change; NaN where a latent does not fire."""
    changes: tuple[float, ...]
    """Median relative change of the residual stream in each, before that."""
    true_change: float
    """That of the true fine-tune on the same tokens."""
    n_tokens: int
    """Tokens that take part."""


def scrambled_shifts(
    crosscoder: Crosscoder,
    specs: Sequence[SubjectSpec],
    pair: tuple[str, str],
    documents: Sequence[Document],
    config: HarvestConfig,
    *,
    n_scrambles: int,
    seed: int,
    today: dt.date | None = None,
    progress: Progress | None = None,
    cache_dir: Path | None = None,
) -> ScrambledShifts:
    """Measure the shifts of `n_scrambles` scrambled fine-tunes of pair[0], against pair[1].

    `specs` are the crosscoder's models in its order. In turn each scrambled fine-tune takes the
    place of the true one, is centred and scaled on these tokens as the others are, and the
    crosscoder encodes what it reads. A shift grows in proportion to a small change, so each is
    multiplied by the ratio of the true change to its own. InputError where the two models are
    equal, or of different shape.
    """
    if n_scrambles < LEAST_SCRAMBLES:
        raise InputError(f"n_scrambles: {n_scrambles}; give {LEAST_SCRAMBLES} or more")
    progress = progress or SilentProgress()
    text = _Text(specs, documents, config, today, progress, cache_dir)
    target, base = (text.spec_of(name) for name in pair)
    place = crosscoder.config.model_names.index(pair[0])
    base_place = crosscoder.config.model_names.index(pair[1])
    with (
        tempfile.TemporaryDirectory() as folder,
        progress.task("scramble", n_scrambles + len(specs), "models") as advance,
    ):
        read = []
        for spec in text.specs:
            read.append(text.read(spec))
            advance(1)
        stack = torch.cat([each.activations.float() for each in read], dim=1)
        mask = text.mask(read)
        true_change = median_change(stack[mask, place], stack[mask, base_place])
        some = spread_over(documents, FIT_DOCUMENTS)
        factor = fitted_scramble(
            target, base, some, config, Path(folder) / "fit", seed, FIT_TOLERANCE
        ).factor
        shifts, changes = [], []
        for k in range(n_scrambles):
            home = Path(folder) / "scramble"
            scrambled = text.read(write_scrambled(target, base, home, seed + 1 + k, factor))
            stack[:, place] = scrambled.activations[:, 0].float()
            mask = text.mask([*read[:place], scrambled, *read[place + 1 :]])
            changes.append(median_change(stack[mask, place], stack[mask, base_place]))
            shift = _shift(crosscoder, stack[mask], scrambled.document[mask], pair)
            shifts.append(shift * true_change / changes[-1])
            advance(1)
    n_tokens = int(mask.sum())
    return ScrambledShifts(
        np.stack(shifts).astype(np.float32), tuple(changes), true_change, n_tokens
    )


class _Text:
    """Some documents, as every model of the study reads them: one model in memory at a time."""

    def __init__(
        self,
        specs: Sequence[SubjectSpec],
        documents: Sequence[Document],
        config: HarvestConfig,
        today: dt.date | None,
        progress: Progress,
        cache_dir: Path | None,
    ) -> None:
        inputs = harvest_inputs(specs, documents, config, progress, cache_dir)
        self._config = config
        self._tokenized: Sequence[TokenizedDocument] = read_text(
            inputs, documents, config, today
        ).documents
        self.specs = [pinned(spec) for spec in specs]
        if cache_dir is not None:
            hashes = FileHashes(cache_dir / "file-hashes.json")
            self.specs = [
                with_converted_weights(spec, cache_dir, hashes, progress) for spec in self.specs
            ]

    def spec_of(self, name: str) -> SubjectSpec:
        """The model of this name, its weights where they are fast to load."""
        return next(spec for spec in self.specs if spec.name == name)

    def read(self, spec: SubjectSpec) -> ShardTokens:
        """What one model says: activations (n, 1, d)."""
        facts = inspect_subject(spec)
        readers = open_readers([facts], self._tokenized, self._config.layer, self._config.device)
        reader = CorpusReader(readers, facts.d_model, self._config.batch_tokens, "float32")
        return reader.read(self._tokenized, lambda _: None)

    def mask(self, read: Sequence[ShardTokens]) -> torch.Tensor:
        """(n,) bool, the tokens that take part: ordinary ones in every model."""
        norms = torch.cat([each.norms for each in read], dim=1)
        roles, document = read[0].roles, read[0].document
        medians = median_norms([norms], [roles])
        config = self._config
        return token_mask(norms, roles, document, medians, config.skip_first, config.max_norm_ratio)


def _shift(
    crosscoder: Crosscoder, activations: torch.Tensor, document: torch.Tensor, pair: tuple[str, str]
) -> NDArray[np.float64]:
    """(F,) strength shift of activations (n, M, d), each model centred and scaled on them.

    The centre of the true fine-tune is not that of a scrambled one: with it, every scrambled
    fine-tune would show the true change's absence, and all of them the same.
    """
    own = copy.deepcopy(crosscoder)
    if crosscoder.config.normalisation == "affine":
        normaliser = fit_normaliser([activations])
        own.act_mean.copy_(normaliser.mean)
        own.act_scale.copy_(normaliser.scale)
    _, numbered = torch.unique(document, return_inverse=True)
    store = memory_store(activations, numbered, crosscoder.config.model_names)
    return latent_scaling(own, store).pair(*pair).strength_shift
