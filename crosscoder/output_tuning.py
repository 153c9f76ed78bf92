"""Decoders tuned on the models' outputs, so that the latents restore more of the output gap.

After training, with encoder and selection fixed, Adam moves decoder rows and biases to lower
    KL(p_t || p_h),    h = x^r + sum_j f_j (d_j^t - d_j^r) + difference of means and decoder biases,
where the target's upper blocks go on from h: what `crosscoder.patching` measures of all latents.
Of a pair (t, r) only differences count: d_j^t and d_j^r move by opposite gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from crosscoder.attribution import DifferenceRows, Direction, PatchedRun
from crosscoder.batch_topk import SparseCodes
from crosscoder.config import OutputTuningSettings
from crosscoder.effect_result import NEGLIGIBLE_GAP
from crosscoder.effect_text import DocumentSource, EffectBatch, EffectText, encode_patched
from crosscoder.errors import WorkError
from crosscoder.losses import with_folded_norms, zero_excluded_gradients
from crosscoder.model import Crosscoder
from crosscoder.progress import Progress, SilentProgress
from crosscoder.trainer import Adam, learning_rate

BATCHES_AT_ONCE = 16
"""Batches whose activations are in memory at a time."""
WARMUP_SHARE, DECAY_SHARE = 0.1, 0.5
"""Shares of the steps over which the rate rises and falls."""


@dataclass(frozen=True)
class OutputTuning:
    """What a tuning did."""

    crosscoder: Crosscoder
    """With `code_norm` "none", or the given one where the models have the same output."""
    n_steps: int
    n_tokens: int
    """Tokens of the training mask over which the divergence was lowered, all steps together."""
    first: float
    """Mean KL over the first tenth of the steps, nats per token, all directions together."""
    last: float
    """The same over the last tenth."""


def tune_decoders(
    crosscoder: Crosscoder,
    source: DocumentSource,
    documents: Sequence[int],
    directions: Sequence[Direction],
    settings: OutputTuningSettings,
    seed: int,
    exclusive_fraction: float = 0.0,
    progress: Progress | None = None,
) -> OutputTuning:
    """Tune on random batches of some documents, which others are kept from.

    Codes and L0 stay what they are. A pair whose outputs are the same is left as it is. InputError
    where no document has a token of the training mask, WorkError where the divergence is not
    finite.
    """
    tuned = with_folded_norms(crosscoder)
    adam = Adam(tuned)
    warmup = round(WARMUP_SHARE * settings.tuning_steps)
    peak = settings.tuning_rate * float(tuned.W_dec.detach().square().mean().sqrt())
    n_steps = settings.tuning_steps
    means: list[float] = []
    n_tokens = 0
    batches = _random_batches(source, documents, settings.tuning_tokens, seed)
    with (progress or SilentProgress()).task("tune decoders", n_steps, "steps") as advance:
        for step in range(n_steps):
            batch = next(batches)
            if step == 0 and _is_identity(batch, directions):
                return OutputTuning(crosscoder, 0, 0, 0.0, 0.0)
            divergence, n_read = _set_gradients(tuned, batch, directions)
            if not math.isfinite(divergence):
                raise WorkError(
                    f"tuning step {step + 1}: the divergence is not finite; lower train.tuning_rate"
                )
            zero_excluded_gradients(tuned, exclusive_fraction)
            adam.step(learning_rate(step, n_steps, peak, warmup, DECAY_SHARE))
            means.append(divergence)
            n_tokens += n_read
            advance(1)
    tenth = max(1, n_steps // 10)
    first, last = float(np.mean(means[:tenth])), float(np.mean(means[-tenth:]))
    return OutputTuning(tuned, n_steps, n_tokens, first, last)


def _random_batches(
    source: DocumentSource, documents: Sequence[int], batch_tokens: int, seed: int
) -> Iterator[EffectBatch]:
    """Batches of random documents without end; only those with a token of the training mask."""
    number = 0
    while True:
        generator = np.random.default_rng([seed, number])
        text = EffectText.draw(
            source,
            documents,
            BATCHES_AT_ONCE * batch_tokens,
            batch_tokens,
            int(generator.integers(1 << 31)),
        )
        batches = [batch for batch in text.batches() if bool(batch.patched.any())]
        for place in generator.permutation(len(batches)).tolist():
            yield batches[place]
        number += 1


@torch.no_grad()
def _is_identity(batch: EffectBatch, directions: Sequence[Direction]) -> bool:
    """Whether the gap is negligible in every direction: rounding would be all there is to learn."""
    runs = [PatchedRun(batch, direction) for direction in directions]
    gaps = [run.divergence.of([run.outcome(run.reference[run.patched])])[0] for run in runs]
    return all(float(gap.mean()) <= NEGLIGIBLE_GAP for gap in gaps)


def _set_gradients(
    crosscoder: Crosscoder, batch: EffectBatch, directions: Sequence[Direction]
) -> tuple[float, int]:
    """Set the gradients of W_dec and b_dec; mean KL over the directions and the number of tokens.

    The loss is the mean over the tokens of the training mask, summed over the directions.
    """
    codes = encode_patched(crosscoder, batch)
    decoder = torch.zeros_like(crosscoder.W_dec)
    bias = torch.zeros_like(crosscoder.b_dec)
    total = 0.0
    n_tokens = int(batch.patched.sum())
    for direction in directions:
        rows = DifferenceRows(crosscoder, direction.target, direction.reference)
        kl, gradient = _divergence(rows, codes, PatchedRun(batch, direction))
        rows.add_gradient(codes, gradient.to(decoder) / n_tokens, decoder, bias)
        total += float(kl.double().sum())
    crosscoder.W_dec.grad, crosscoder.b_dec.grad = decoder, bias
    return total / (n_tokens * len(directions)), n_tokens


def _divergence(
    rows: DifferenceRows, codes: SparseCodes, run: PatchedRun
) -> tuple[torch.Tensor, torch.Tensor]:
    """KL (n,) that all latents and the constant leave, and its gradient (n, d) in their sum."""
    reference = run.reference[run.patched]
    change = rows.sums(codes, len(reference)) + rows.constant
    return run.gradient(reference + change.to(reference), run.patched)
