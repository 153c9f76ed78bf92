"""One trial on planted activations: train, scale, isolate, and compare with the truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crosscoder.checkpoints import load_crosscoder
from crosscoder.isolation import IsolationRule, eligible_latents, select_latents
from crosscoder.model import CrosscoderConfig
from crosscoder.planted import PairClass, Planted, PlantedConfig, generate_planted
from crosscoder.planted_match import ClassScore, LatentMatch, match_latents, score_class
from crosscoder.scaling import LatentScaling, PairScaling, latent_scaling
from crosscoder.train_config import TrainConfig
from crosscoder.training import TrainResult, train

Method = Literal["delta_norm", "strict", "significant"]
METHODS: tuple[Method, ...] = ("delta_norm", "strict", "significant")
"""`delta_norm`: the published bins, with the documents that the rules ask for; the rest: rules."""
IN_BOTH: tuple[PairClass, ...] = ("shared", "shrunk", "decoupled", "rotated")
"""Classes of true latents that are specific to neither model."""
BINS = (0.1, 0.4, 0.6, 0.9)
"""Reference-only, shared between the middle two, target-only (arXiv 2504.02922, section 2)."""


TRAINING = TrainConfig(epochs=24, batch_size=512, learning_rate=3e-3)
"""Long enough for latents of 0.5% density to be learned; lr and batch suit 256 latents."""


@dataclass(frozen=True)
class TrialConfig:
    """What is planted and how the crosscoder is trained on it."""

    planted: PlantedConfig = field(default_factory=PlantedConfig)
    n_latents: int = 256
    k: int | None = None
    """True latents that fire on a token, rounded up, where it is None."""
    train: TrainConfig = TRAINING


@dataclass(frozen=True)
class PairScore:
    """One method on one ordered pair of models."""

    target: str
    reference: str
    method: Method
    target_only: ClassScore
    reference_only: ClassScore
    in_both: ClassScore
    n_called_of_class: tuple[tuple[PairClass, int, int], ...]
    """For each class in both models: class, true latents called target-only, true latents."""


@dataclass(frozen=True)
class Trial:
    """What came out of one trial."""

    config: TrialConfig
    n_true: int
    """T, true latents."""
    k: int
    result: TrainResult
    scaling: LatentScaling
    match: LatentMatch
    scores: tuple[PairScore, ...]
    """By ordered pair and method."""


def run_trial(config: TrialConfig, folder: Path) -> Trial:
    """Generate, train into `folder`, and score every method on every ordered pair of models."""
    planted = generate_planted(config.planted)
    k = config.k or int(np.ceil(planted.truth.mean_active))
    crosscoder_config = CrosscoderConfig(
        n_models=len(config.planted.model_names),
        d_model=config.planted.d_model,
        n_latents=config.n_latents,
        k=k,
        model_names=config.planted.model_names,
    )
    result = train(planted.store, crosscoder_config, config.train, folder)
    crosscoder = load_crosscoder(folder)
    scaling = latent_scaling(crosscoder, planted.store)
    match = match_latents(crosscoder, planted)
    scores = tuple(
        score_pair(planted, scaling, match, target, reference, method)
        for target, reference in permutations(config.planted.model_names, 2)
        for method in METHODS
    )
    n_true = planted.truth.n_latents
    return Trial(config, n_true, k, result, scaling, match, scores)


def score_pair(
    planted: Planted,
    scaling: LatentScaling,
    match: LatentMatch,
    target: str,
    reference: str,
    method: Method,
) -> PairScore:
    """Score what `method` calls target-only, reference-only, and in both models."""
    forward, backward = scaling.pair(target, reference), scaling.pair(reference, target)
    classes = planted.truth.classes(target, reference)
    rare = planted.truth.rare
    only_target = called_specific(forward, method)
    only_reference = called_specific(backward, method)
    both = _called_both(forward, method) & ~only_target & ~only_reference
    return PairScore(
        target=target,
        reference=reference,
        method=method,
        target_only=score_class(only_target, match, classes, ("target_only",), rare),
        reference_only=score_class(only_reference, match, classes, ("reference_only",), rare),
        in_both=score_class(both, match, classes, IN_BOTH, rare),
        n_called_of_class=tuple(
            (name, score.n_found, score.n_true)
            for name in IN_BOTH
            for score in [score_class(only_target, match, classes, (name,), rare)]
        ),
    )


def called_specific(pair: PairScaling, method: Method) -> NDArray[np.bool_]:
    """(F,) learned latents that a method calls specific to the pair's target."""
    called = np.zeros(len(pair.delta_norm), dtype=bool)
    if method == "delta_norm":
        enough: NDArray[np.bool_] = pair.n_documents >= IsolationRule().min_documents
        return enough & (pair.delta_norm > BINS[3])
    called[select_latents(pair, IsolationRule(kind=method)).latent_indices] = True
    return called


def _called_both(pair: PairScaling, method: Method) -> NDArray[np.bool_]:
    """(F,) learned latents that a method may call common to both models."""
    if method == "delta_norm":
        enough: NDArray[np.bool_] = pair.n_documents >= IsolationRule().min_documents
        return enough & (pair.delta_norm > BINS[1]) & (pair.delta_norm < BINS[2])
    return eligible_latents(pair, IsolationRule(kind=method))
