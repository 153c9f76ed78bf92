"""What a trained crosscoder made of a planted dictionary: matching, precision and recall.

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
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from crosscoder.encoding import encode_shard
from crosscoder.model import Crosscoder
from crosscoder.planted import PairClass, Planted

MIN_CORRELATION = 0.5
"""Correlation of activations below which a learned latent is matched to nothing."""


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
