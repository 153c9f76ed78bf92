"""First-order effect of every latent: integrated gradients of the output gap between two models.

The gap is KL(p_t || p_h) where the target's upper blocks go on from h. On the straight line from
the reference's activations x^r to the target's x^t it falls to 0, and
    a_j = - sum_i f_ij <d_j^t - d_j^r, g_i>,    g = mean gradient at the middles of n equal parts,
is what latent j closes of it (Sundararajan, Taly, Yan 2017: over all of x^t - x^r these add up to
the gap). One backward pass per point and batch serves all latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from crosscoder.batch_topk import SparseCodes
from crosscoder.document_sums import SparseRowSums
from crosscoder.effect_text import SCOPES, EffectBatch, EffectText, encode_patched
from crosscoder.kernels import pair_products, sum_rows
from crosscoder.model import Crosscoder
from crosscoder.output_divergence import Outcome, OutputDivergence
from crosscoder.progress import Progress, SilentProgress
from crosscoder.scaling_sums import FloatArray
from crosscoder.upper_blocks import UpperBlocks


@dataclass(frozen=True)
class Direction:
    """Whose output is explained, and from whose activations it is reached."""

    target: int
    """Place of the target on the crosscoder's model axis."""
    reference: int
    upper: UpperBlocks
    """The target's blocks above the hook."""


@dataclass(frozen=True)
class OutputGap:
    """The gap of one direction, summed over tokens per group of documents."""

    n_tokens: FloatArray
    """(G, len(SCOPES)) tokens."""
    kl: FloatArray
    """(G, len(SCOPES)) sum of KL(p_t || p_{x^r}), nats."""
    scope: int
    """The scope of the attribution: answers, or all content where there are none."""

    @property
    def mean(self) -> FloatArray:
        """(len(SCOPES),) nats per token; NaN where a scope has none."""
        with np.errstate(invalid="ignore"):
            mean: FloatArray = self.kl.sum(axis=0) / self.n_tokens.sum(axis=0)
        return mean


@dataclass(frozen=True)
class Attribution:
    """First-order effects of one direction, in nats that a latent closes of the gap's sum.

    n rows, ascending by group of documents, then latent: a latent's rows are the groups in which
    it fires.
    """

    gap: OutputGap
    line: FloatArray
    """(G,) what all of x^t - x^r closes by first order: the gap but for the error of the points."""
    constant: FloatArray
    """(G,) what the difference of means and decoder biases closes."""
    group: NDArray[np.int32]
    """(n,)"""
    latent: NDArray[np.int32]
    """(n,)"""
    closed: NDArray[np.float32]
    """(n,) a_j of the group."""
    magnitude: NDArray[np.float32]
    """(n,) sum_i f_ij^2 ||d_j^t - d_j^r||^2, raw units."""
    n_latents: int

    @property
    def n_groups(self) -> int:
        """G."""
        return len(self.line)

    def by_group(self, column: NDArray[np.float32]) -> sparse.csr_array:
        """`closed` or `magnitude` as a sparse (G, F) array."""
        shape = (self.n_groups, self.n_latents)
        return sparse.csr_array((column.astype(np.float64), (self.group, self.latent)), shape)

    def totals(
        self, column: NDArray[np.float32], groups: NDArray[np.bool_] | None = None
    ) -> FloatArray:
        """Sums (F,) of `closed` or `magnitude` over all groups, or those of (G,) bool."""
        kept = slice(None) if groups is None else groups[self.group]
        weights = column[kept].astype(np.float64)
        return np.bincount(self.latent[kept], weights, self.n_latents).astype(np.float64)


def choice_half(n_groups: int) -> NDArray[np.bool_]:
    """(G,) groups of documents on which latents are chosen by attribution.

    What was chosen is tested on the others: on its own half it would look better than it is.
    """
    half: NDArray[np.bool_] = np.arange(n_groups) % 2 == 0
    return half


def chosen_shares(attributions: Sequence[Attribution]) -> FloatArray:
    """(F,) share of the gaps of all directions together that each latent closes by first order.

    On the half of the documents for choice. Both directions of a pair together make it the same
    for both models: which side a latent is on is another question. 0 where there is no gap.
    """
    half = choice_half(attributions[0].n_groups)
    closed = sum(each.totals(each.closed, half) for each in attributions)
    gap = sum(float(each.gap.kl[half, each.gap.scope].sum()) for each in attributions)
    return np.divide(closed, gap) if gap > 0 else np.zeros(attributions[0].n_latents)


class DifferenceRows:
    """The decoder difference d_j^t - d_j^r of one direction, in raw units, without a copy."""

    def __init__(self, crosscoder: Crosscoder, target: int, reference: int) -> None:
        self._target, self._reference = target, reference
        self._rows = crosscoder.W_dec.detach().flatten(1)
        self._scale = crosscoder.act_scale
        self._n_models = crosscoder.config.n_models
        raw = crosscoder.denormalise(crosscoder.b_dec.detach())
        self.constant = raw[target] - raw[reference]
        """(d,) difference of means and decoder biases."""

    @cached_property
    def square(self) -> torch.Tensor:
        """(F,) ||d_j^t - d_j^r||^2."""
        rows = self._rows.view(len(self._rows), self._n_models, -1)
        step = max(1, (1 << 26) // max(1, rows[0].numel()))
        return torch.cat([self._of(part).square().sum(-1).double() for part in rows.split(step)])

    def _of(self, models: torch.Tensor) -> torch.Tensor:
        """Difference (..., d) of normalised vectors (..., M, d), in raw units."""
        raw = models * self._scale[:, None]
        return raw[..., self._target, :] - raw[..., self._reference, :]

    def sums(self, codes: SparseCodes, n_tokens: int) -> torch.Tensor:
        """sum_j f_ij (d_j^t - d_j^r): (n_tokens, d)."""
        out = sum_rows(self._rows, codes.token, codes.latent, codes.value, n_tokens)
        return self._of(out.view(n_tokens, self._n_models, -1))

    def products(self, codes: SparseCodes, vectors: torch.Tensor) -> torch.Tensor:
        """f_ij <d_j^t - d_j^r, v_i> of each pair, from raw vectors v (n_tokens, d)."""
        spread = vectors.new_zeros(len(vectors), self._n_models, vectors.shape[1])
        spread[:, self._target] = vectors * self._scale[self._target]
        spread[:, self._reference] = -vectors * self._scale[self._reference]
        return codes.value * pair_products(spread.flatten(1), self._rows, codes.token, codes.latent)

    def add_gradient(
        self,
        codes: SparseCodes,
        vectors: torch.Tensor,
        decoder: torch.Tensor,
        bias: torch.Tensor,
    ) -> None:
        """Add to the gradients of W_dec (F, M, d) and b_dec (M, d) what (n_tokens, d) amounts to.

        `vectors` is the gradient in sum_j f_ij (d_j^t - d_j^r) + constant, raw units.
        """
        by_latent = codes.latent.argsort(stable=True)
        rows = sum_rows(
            vectors,
            codes.latent[by_latent],
            codes.token[by_latent],
            codes.value[by_latent],
            len(decoder),
        )
        for model, sign in ((self._target, 1), (self._reference, -1)):
            decoder[:, model] += sign * self._scale[model] * rows
            bias[model] += sign * self._scale[model] * vectors.sum(0)


class PatchedRun:
    """One batch of one direction: what the target makes of changed activations."""

    def __init__(self, batch: EffectBatch, direction: Direction) -> None:
        self.upper = direction.upper
        device = self.upper.device
        self.input_ids = batch.input_ids.to(device)
        self.patched = batch.patched.to(device)
        activations = batch.activations.to(device)
        self.target = activations[:, :, direction.target]
        """(B, T, d)"""
        self.reference = activations[:, :, direction.reference]
        self.judged = batch.scopes.any(dim=0).to(device)
        """(B, T) bool, the tokens of any scope."""
        with torch.no_grad():
            hidden = self.upper.hidden(self.input_ids, self.target)
        self.divergence = OutputDivergence(
            self.upper.logits, self.upper.vocabulary, hidden[self.judged]
        )

    def activations(self, change: torch.Tensor) -> torch.Tensor:
        """Activations (B, T, d): `change` (n, d) at the patched tokens, else the target's."""
        return self.target.masked_scatter(self.patched[:, :, None], change)

    @torch.no_grad()
    def outcome(self, change: torch.Tensor, moved: torch.Tensor | None = None) -> Outcome:
        """Final hidden states at the judged tokens.

        With `moved`, patched tokens (n,) bool, only in their documents and from the first of them
        on: the blocks are causal, and before it the output is what it is without the change.
        """
        reached = torch.ones_like(self.patched)
        if moved is not None:
            reached = torch.zeros_like(self.patched).masked_scatter(self.patched, moved)
            reached = reached.cummax(dim=1).values
        judged = self.judged & reached
        rows = (self.judged.flatten().cumsum(0) - 1)[judged.flatten()]
        if len(rows) == 0:
            return Outcome(rows, self.target.new_zeros(0, self.target.shape[-1]))
        documents = judged.any(dim=1)
        activations = self.activations(change)[documents]
        hidden = self.upper.hidden(self.input_ids[documents], activations)
        return Outcome(rows, hidden[judged[documents]])

    def gradient(
        self, change: torch.Tensor, scope: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """KL (m,) at the tokens of a scope (B, T), and the gradient (n, d) of its sum in `change`.

        The scope's tokens are among the judged ones.
        """
        leaf = change.detach().requires_grad_()
        with torch.enable_grad():
            hidden = self.upper.hidden(self.input_ids, self.activations(leaf))
        rows = scope[self.judged].nonzero().flatten()
        upstream = torch.zeros_like(hidden)
        kl, upstream[scope] = self.divergence.with_gradient(Outcome(rows, hidden.detach()[scope]))
        (gradient,) = torch.autograd.grad(hidden, leaf, upstream)
        return kl, gradient


def scope_sums(values: torch.Tensor, batch: EffectBatch, n_groups: int) -> FloatArray:
    """Sums (G, len(SCOPES)) of a value (m,) float64 of each judged token."""
    judged = batch.scopes.any(dim=0)
    group = batch.group[:, None].expand_as(judged)[judged]
    sums = torch.zeros(n_groups, len(SCOPES), dtype=torch.float64)
    sums.index_add_(0, group, values[:, None] * batch.scopes[:, judged].T)
    return sums.numpy()


def attribute(
    crosscoder: Crosscoder,
    text: EffectText,
    directions: Sequence[Direction],
    n_points: int = 4,
    progress: Progress | None = None,
) -> list[Attribution]:
    """Gap and first-order effect of every latent, for each direction, in one pass over the text."""
    gatherers = [_Gatherer(crosscoder, text, each, n_points) for each in directions]
    with (progress or SilentProgress()).task("attribute", text.n_tokens, "tokens") as advance:
        for batch in text.batches():
            codes = encode_patched(crosscoder, batch)
            for gatherer in gatherers:
                gatherer.add(batch, codes)
            advance(batch.n_tokens)
    return [gatherer.finish() for gatherer in gatherers]


class _Gatherer:
    """The sums of one direction."""

    def __init__(
        self, crosscoder: Crosscoder, text: EffectText, direction: Direction, n_points: int
    ) -> None:
        n_groups = text.n_groups
        self._direction = direction
        self._scope = text.scope
        self._n_points = n_points
        self._n_groups = n_groups
        self._n_latents = crosscoder.config.n_latents
        self._rows = DifferenceRows(crosscoder, direction.target, direction.reference)
        self._n_tokens = np.zeros((n_groups, len(SCOPES)))
        self._kl = np.zeros((n_groups, len(SCOPES)))
        self._ends = torch.zeros(n_groups, 2, dtype=torch.float64)
        self._sums = SparseRowSums(self._n_latents, 2)

    def add(self, batch: EffectBatch, codes: SparseCodes) -> None:
        run = PatchedRun(batch, self._direction)
        target, reference = run.target[run.patched], run.reference[run.patched]
        (kl,) = run.divergence.of([run.outcome(reference)])
        self._kl += scope_sums(kl, batch, self._n_groups)
        self._n_tokens += scope_sums(torch.ones_like(kl), batch, self._n_groups)
        scope = batch.scopes[self._scope].to(self._direction.upper.device)
        gradient = self._mean_gradient(run, scope, target, reference)
        group = batch.group[:, None].expand_as(batch.patched)[batch.patched]
        constant = self._rows.constant.to(target.device).expand_as(target)
        vectors = torch.stack([target - reference, constant], dim=1)
        ends = -torch.einsum("nkd,nd->nk", vectors, gradient)
        self._ends.index_add_(0, group, ends.double().cpu())
        device = codes.value.device
        closed = -self._rows.products(codes, gradient.to(device))
        magnitude = codes.value.double().square() * self._rows.square[codes.latent]
        values = torch.stack([closed.double(), magnitude], dim=1)
        self._sums.add(group.to(device)[codes.token], codes.latent, values)

    def _mean_gradient(
        self,
        run: PatchedRun,
        scope: torch.Tensor,
        target: torch.Tensor,
        reference: torch.Tensor,
    ) -> torch.Tensor:
        """Mean over the middles of the line's parts of the gradient (n, d) of the summed KL."""
        total = torch.zeros_like(target)
        for point in range(self._n_points):
            share = (point + 0.5) / self._n_points
            total += run.gradient(reference + share * (target - reference), scope)[1]
        return total / self._n_points

    def finish(self) -> Attribution:
        group, latent, values = self._sums.finish()
        ends = self._ends.numpy()
        return Attribution(
            gap=OutputGap(self._n_tokens, self._kl, self._scope),
            line=ends[:, 0],
            constant=ends[:, 1],
            group=group,
            latent=latent,
            closed=np.ascontiguousarray(values[:, 0]),
            magnitude=np.ascontiguousarray(values[:, 1]),
            n_latents=self._n_latents,
        )
