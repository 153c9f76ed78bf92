"""What sets of latents restore and carry of the output gap between two models.

For a set S and the decoder differences of a direction (target t, reference r), in raw units:
    restores: h = x^r + sum_{j in S} f_j (d_j^t - d_j^r);    carries: h = x^t - the same sum,
and the target's upper blocks go on from h (arXiv 2504.02922, section 4). The set restores
1 - KL(p_t || p_h) / gap of the gap, and carries KL(p_t || p_h) / gap of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from crosscoder.attribution import DifferenceRows, Direction, PatchedRun, scope_sums
from crosscoder.batch_topk import SparseCodes
from crosscoder.effect_text import SCOPES, EffectBatch, EffectText, encode_patched
from crosscoder.model import Crosscoder
from crosscoder.output_divergence import Outcome
from crosscoder.progress import Progress, SilentProgress
from crosscoder.scaling_sums import FloatArray
from crosscoder.upper_blocks import reduced_products

HIDDEN_BYTES = 1 << 28
"""Bound on the final hidden states of several sets that are in memory at a time."""


@dataclass(frozen=True)
class LatentGroup:
    """Latents that are patched together."""

    name: str
    latents: NDArray[np.int64]
    """(n,) latent indices, ascending."""
    with_constant: bool = False
    """Whether the difference of means and decoder biases belongs to it."""


@dataclass(frozen=True)
class PatchedSums:
    """Sums of KL over tokens for each set, group of documents and scope, in nats."""

    sets: tuple[LatentGroup, ...]
    restoring: FloatArray
    """(n_sets, G, len(SCOPES)) KL(p_t || p_h) that is left."""
    carrying: FloatArray
    """(n_sets, G, len(SCOPES)) KL(p_t || p_h) that arises."""


@torch.no_grad()
def patch(
    crosscoder: Crosscoder,
    text: EffectText,
    direction_sets: Sequence[tuple[Direction, Sequence[LatentGroup]]],
    progress: Progress | None = None,
    reduced: bool = False,
) -> list[PatchedSums]:
    """Patch every set of each direction, in one pass over the text.

    A batch's activations and codes serve all sets; a document in which a set does not fire is not
    run for it. The cost is linear in tokens times sets: the first batch tells how long all take.
    With `reduced`, matrices are multiplied as in `reduced_products`. Memory is bounded by one
    batch, `HIDDEN_BYTES` and the logits of a chunk of tokens.
    """
    patchers = [_Patcher(crosscoder, text, each, sets) for each, sets in direction_sets]
    progress = progress or SilentProgress()
    n_sets = sum(len(sets) for _, sets in direction_sets)

    def add(batch: EffectBatch) -> None:
        codes = encode_patched(crosscoder, batch)
        with reduced_products() if reduced else nullcontext():
            for patcher in patchers:
                patcher.add(batch, codes)

    batches = text.batches()
    first = next(batches)
    started = time.monotonic()
    add(first)
    seconds = (time.monotonic() - started) * text.n_tokens / first.n_tokens
    progress.say(f"patch: {n_sets} sets over {text.n_tokens:,} tokens take about {seconds:.0f} s")
    left = text.n_tokens - first.n_tokens
    with progress.task("patch", n_sets * left, "tokens x sets") as advance:
        for batch in batches:
            add(batch)
            advance(n_sets * batch.n_tokens)
    return [patcher.sums for patcher in patchers]


class _Patcher:
    """The sums of one direction."""

    def __init__(
        self,
        crosscoder: Crosscoder,
        text: EffectText,
        direction: Direction,
        sets: Sequence[LatentGroup],
    ) -> None:
        self._direction = direction
        self._rows = DifferenceRows(crosscoder, direction.target, direction.reference)
        self._n_latents = crosscoder.config.n_latents
        self._n_groups = text.n_groups
        shape = (len(sets), text.n_groups, len(SCOPES))
        self.sums = PatchedSums(tuple(sets), np.zeros(shape), np.zeros(shape))

    def add(self, batch: EffectBatch, codes: SparseCodes) -> None:
        run = PatchedRun(batch, self._direction)
        reference = run.outcome(run.reference[run.patched])
        (gap,) = run.divergence.of([reference])
        per_set = max(1, reference.hidden.numel() * reference.hidden.element_size())
        step = max(1, HIDDEN_BYTES // (2 * per_set))
        for start in range(0, len(self.sums.sets), step):
            places = range(start, min(start + step, len(self.sums.sets)))
            outcomes = [each for place in places for each in self._outcomes(run, codes, place)]
            divergences = run.divergence.of(outcomes)
            for index, place in enumerate(places):
                restored, carried = (2 * index, 2 * index + 1)
                # Where a set does not fire, all of the gap is left and nothing arises.
                left = _with(gap, outcomes[restored], divergences[restored])
                arisen = _with(torch.zeros_like(gap), outcomes[carried], divergences[carried])
                self.sums.restoring[place] += scope_sums(left, batch, self._n_groups)
                self.sums.carrying[place] += scope_sums(arisen, batch, self._n_groups)

    def _outcomes(self, run: PatchedRun, codes: SparseCodes, place: int) -> Iterator[Outcome]:
        """What the target makes of the restoring and of the carrying patch of a set."""
        target, reference = run.target[run.patched], run.reference[run.patched]
        change = self._change(codes, self.sums.sets[place], len(target)).to(target.device)
        moved = change.any(dim=1)
        yield run.outcome(reference + change, moved)
        yield run.outcome(target - change, moved)

    def _change(self, codes: SparseCodes, latents: LatentGroup, n_tokens: int) -> torch.Tensor:
        """sum_{j in S} f_ij (d_j^t - d_j^r), and the constant where it belongs to S: (n, d)."""
        is_member = torch.zeros(self._n_latents, dtype=torch.bool, device=codes.latent.device)
        is_member[torch.from_numpy(latents.latents).to(is_member.device)] = True
        kept = is_member[codes.latent]
        part = SparseCodes(codes.token[kept], codes.latent[kept], codes.value[kept])
        change = self._rows.sums(part, n_tokens)
        return change + self._rows.constant if latents.with_constant else change


def _with(values: torch.Tensor, outcome: Outcome, divergence: torch.Tensor) -> torch.Tensor:
    """The values (m,) of all judged tokens, with those of an outcome in their places."""
    return values.index_put((outcome.rows.cpu(),), divergence)


@torch.no_grad()
def ablation_divergence(
    crosscoder: Crosscoder,
    text: EffectText,
    models: Sequence[Direction],
    latents: Sequence[int],
    progress: Progress | None = None,
) -> FloatArray:
    """KL(p_m || p_h) under the ablation h = x^m - f_j d_j^m, per model, latent and document.

    Sums (len(models), len(latents), G) over the text's scope. The `target` of each direction is
    the model that is run. InputError as `encode_thresholded` raises it.
    """
    sums = np.zeros((len(models), len(latents), text.n_groups))
    with (progress or SilentProgress()).task("ablate", text.n_tokens, "tokens") as advance:
        for batch in text.batches():
            codes = encode_patched(crosscoder, batch)
            for place, model in enumerate(models):
                run = PatchedRun(batch, model)
                outcomes = [_ablated(crosscoder, run, model, codes, latent) for latent in latents]
                n_judged = int(batch.scopes.any(dim=0).sum())
                zero = torch.zeros(n_judged, dtype=torch.float64)
                for column, (outcome, kl) in enumerate(
                    zip(outcomes, run.divergence.of(outcomes), strict=True)
                ):
                    by_scope = scope_sums(_with(zero, outcome, kl), batch, text.n_groups)
                    sums[place, column] += by_scope[:, text.scope]
            advance(batch.n_tokens)
    return sums


def _ablated(
    crosscoder: Crosscoder, run: PatchedRun, model: Direction, codes: SparseCodes, latent: int
) -> Outcome:
    own = run.target[run.patched]
    row = crosscoder.W_dec[latent, model.target] * crosscoder.act_scale[model.target]
    active = codes.latent == latent
    activation = torch.zeros(len(own), device=row.device)
    activation[codes.token[active]] = codes.value[active]
    change = (activation[:, None] * row).to(own.device)
    return run.outcome(own - change, activation.to(own.device) > 0)
