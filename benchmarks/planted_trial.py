"""One trial on planted activations: train, scale, isolate, and compare with the truth.

A learned latent is *matched* to the true latent whose strength correlates most with its
activation over the tokens (Pearson), if that correlation is at least 0.5; the cosine between the
two decoder rows, all models concatenated and in normalised space, is reported beside it. Several
learned latents may be matched to one true latent.

Of the learned latents that a rule calls specific, *precision* is the share that is matched to a
true latent of that class; what is matched to nothing counts as wrong. *Recall* is the share of the
true latents of the class to which some learned latent is matched that the rule calls specific.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from planted_data import PairClass, Planted, PlantedConfig, generate_planted

from crosscoder.checkpoints import load_crosscoder
from crosscoder.config import TrainConfig
from crosscoder.evaluate import encode_shard
from crosscoder.isolation import select_latents
from crosscoder.isolation_rules import isolation_rule
from crosscoder.model import Crosscoder, CrosscoderConfig
from crosscoder.scaling import LatentScaling, PairScaling, latent_scaling
from crosscoder.train import TrainResult, train

Method = Literal["delta_norm", "strict", "significant"]
METHODS: tuple[Method, ...] = ("delta_norm", "strict", "significant")
"""`delta_norm`: the published bins, with the documents that the rules ask for; the rest: rules."""
IN_BOTH: tuple[PairClass, ...] = ("shared", "shrunk", "decoupled", "rotated")
"""Classes of true latents that are specific to neither model."""
BINS = (0.1, 0.4, 0.6, 0.9)
"""Reference-only, shared between the middle two, target-only (arXiv 2504.02922, section 2)."""
MIN_CORRELATION = 0.5
"""Correlation of activations below which a learned latent is matched to nothing."""
TRAINING = TrainConfig(epochs=24, batch_size=512, learning_rate=3e-3)
"""Long enough for latents of 0.5% density to be learned; lr and batch suit 256 latents."""


@dataclass(frozen=True)
class LatentMatch:
    """The true latent behind every learned one."""

    true_latent: NDArray[np.int64]
    """(F,) index of the true latent, -1 where nothing correlates."""
    correlation: NDArray[np.float64]
    """(F,) largest correlation of the activations; 0 for a latent that never fires."""
    cosine: NDArray[np.float64]
    """(F,) cosine between the decoder rows of the learned and its best true latent."""


@dataclass(frozen=True)
class ClassScore:
    """How well a rule finds the true latents of one class."""

    n_called: int
    """Learned latents that the rule called specific."""
    n_right: int
    """Those of them that are matched to a true latent of the class."""
    n_true: int
    """True latents of the class."""
    n_found: int
    """Those of them to which a called latent is matched."""
    n_true_rare: int
    n_found_rare: int

    @property
    def precision(self) -> float:
        """n_right / n_called; 1 where nothing was called."""
        return self.n_right / self.n_called if self.n_called else 1.0

    @property
    def recall(self) -> float:
        """n_found / n_true; 1 where there is nothing to find."""
        return self.n_found / self.n_true if self.n_true else 1.0

    @property
    def recall_rare(self) -> float:
        """The recall of the rare ones alone."""
        return self.n_found_rare / self.n_true_rare if self.n_true_rare else 1.0


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
        enough: NDArray[np.bool_] = pair.n_documents >= isolation_rule().min_documents
        return enough & (pair.delta_norm > BINS[3])
    called[select_latents(pair, isolation_rule(kind=method)).latent_indices] = True
    return called


def _called_both(pair: PairScaling, method: Method) -> NDArray[np.bool_]:
    """(F,) learned latents that a method may call common to both models."""
    if method == "delta_norm":
        enough: NDArray[np.bool_] = pair.n_documents >= isolation_rule().min_documents
        return enough & (pair.delta_norm > BINS[1]) & (pair.delta_norm < BINS[2])
    return isolation_rule(kind=method).eligible(pair)


def pooled(scores: Sequence[ClassScore]) -> ClassScore:
    """The counts of several runs together."""
    return ClassScore(
        n_called=sum(score.n_called for score in scores),
        n_right=sum(score.n_right for score in scores),
        n_true=sum(score.n_true for score in scores),
        n_found=sum(score.n_found for score in scores),
        n_true_rare=sum(score.n_true_rare for score in scores),
        n_found_rare=sum(score.n_found_rare for score in scores),
    )


@torch.no_grad()
def match_latents(crosscoder: Crosscoder, planted: Planted) -> LatentMatch:
    """Match the learned latents to the true ones by the activations on all tokens."""
    truth = planted.truth
    strengths = truth.strengths.double()
    n_latents = crosscoder.config.n_latents
    product = torch.zeros(n_latents, truth.n_latents, dtype=torch.float64)
    total = torch.zeros(n_latents, dtype=torch.float64)
    square = torch.zeros(n_latents, dtype=torch.float64)
    start = 0
    for shard in planted.store.shards():
        for tokens in encode_shard(crosscoder, shard):
            n = len(tokens.row)
            dense = tokens.codes.dense(n, n_latents).cpu().double()
            product += dense.T @ strengths[start : start + n]
            total += dense.sum(0)
            square += dense.square().sum(0)
            start += n
    covariance = product / start - torch.outer(total / start, strengths.mean(0))
    spread = (square / start - (total / start).square()).clamp_min(0).sqrt()
    correlation = covariance / torch.outer(spread, strengths.std(0, correction=0))
    correlation = correlation.nan_to_num(0.0)
    best, index = correlation.max(dim=1)
    learned = crosscoder.W_dec.cpu().double()
    scale = crosscoder.act_scale.cpu().double().view(1, -1, 1)
    # The planted directions in the models' own scales, seen in the crosscoder's space.
    true = (truth.directions.double() * planted.scale.double() / scale)[index]
    cosine = torch.nn.functional.cosine_similarity(learned.flatten(1), true.flatten(1))
    return LatentMatch(
        true_latent=torch.where(best >= MIN_CORRELATION, index, -1).numpy(),
        correlation=best.numpy(),
        cosine=cosine.numpy(),
    )


def score_class(
    called: NDArray[np.bool_],
    match: LatentMatch,
    classes: Sequence[PairClass],
    wanted: Sequence[PairClass],
    rare: torch.Tensor,
) -> ClassScore:
    """Precision and recall of the learned latents `called` (F,) for the classes `wanted`."""
    of_class = np.array([one in wanted for one in classes])
    is_rare = of_class & rare.numpy()
    matched = match.true_latent[called]
    right = (matched >= 0) & of_class[matched]
    found = np.zeros(len(of_class), dtype=bool)
    found[matched[right]] = True
    return ClassScore(
        n_called=int(called.sum()),
        n_right=int(right.sum()),
        n_true=int(of_class.sum()),
        n_found=int(found.sum()),
        n_true_rare=int(is_rare.sum()),
        n_found_rare=int((found & is_rare).sum()),
    )
