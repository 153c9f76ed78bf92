"""Tuned decoders: exact gradients, a loss that falls, a share that rises, codes that stay."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
from planted_edits import STRENGTHS, EditTrial, make_trial

from crosscoder.attribution import DifferenceRows, Direction, PatchedRun
from crosscoder.config import OutputTuningSettings
from crosscoder.effect_text import EffectText, encode_patched
from crosscoder.errors import InputError, WorkError
from crosscoder.evaluate import restrict
from crosscoder.losses import with_folded_norms
from crosscoder.model import Crosscoder, CrosscoderConfig, fit_normaliser
from crosscoder.output_tuning import OutputTuning, tune_decoders
from crosscoder.patching import LatentGroup, patch

TRAINED, HELD_OUT = range(12), range(12, 16)
SETTINGS = OutputTuningSettings(tuning_steps=20, tuning_tokens=96, tuning_rate=0.3)
SHORT = OutputTuningSettings(tuning_steps=2, tuning_tokens=48, tuning_rate=0.1)


@cache
def trial(is_edited: bool = True) -> EditTrial:
    strengths = STRENGTHS if is_edited else (0.0,) * len(STRENGTHS)
    return make_trial("llama", 5, strengths=strengths)


def weakened_dictionary(made: EditTrial) -> Crosscoder:
    """The latents of the planted differences, with decoders that are too short."""
    crosscoder = restrict(made.crosscoder, range(2 * len(STRENGTHS)))
    with torch.no_grad():
        crosscoder.W_dec *= 0.2
    return crosscoder


def random_dictionary(made: EditTrial, n_latents: int = 48) -> Crosscoder:
    """Shared random latents about each model's mean, selected by their norms."""
    rows = made.documents.activations[made.documents.mask]
    config = CrosscoderConfig(
        n_models=2, d_model=rows.shape[-1], n_latents=n_latents, k=8, model_names=("base", "tuned")
    )
    generator = torch.Generator().manual_seed(1)
    crosscoder = Crosscoder(config, generator, fit_normaliser([rows]))
    crosscoder.theta.fill_(1.0)
    return crosscoder


def directions(made: EditTrial) -> list[Direction]:
    return [Direction(1, 0, made.uppers["tuned"]), Direction(0, 1, made.uppers["base"])]


def tuned(
    made: EditTrial, settings: OutputTuningSettings, documents: Sequence[int] = TRAINED
) -> OutputTuning:
    crosscoder = weakened_dictionary(made)
    return tune_decoders(crosscoder, made.documents, documents, directions(made), settings, 0)


def left(made: EditTrial, crosscoder: Crosscoder, documents: Sequence[int]) -> list[float]:
    """KL that all latents and the constant leave, by direction."""
    text = EffectText.draw(made.documents, documents, 1 << 20, 256, 0)
    everything = LatentGroup("all", np.arange(crosscoder.config.n_latents), with_constant=True)
    planned = [(direction, [everything]) for direction in directions(made)]
    return [
        float(sums.restoring[..., text.scope].sum()) for sums in patch(crosscoder, text, planned)
    ]


def test_the_loss_falls_and_held_out_text_is_restored_better_in_both_directions() -> None:
    made = trial()
    result = tuned(made, SETTINGS)
    assert result.n_steps == 20
    assert result.last < 0.5 * result.first
    before = left(made, weakened_dictionary(made), HELD_OUT)
    after = left(made, result.crosscoder, HELD_OUT)
    assert all(new < 0.5 * old for new, old in zip(after, before, strict=True))


def test_codes_stay_what_they_are_and_models_move_by_opposite_gradients() -> None:
    made = trial()
    before = random_dictionary(made)
    after = tune_decoders(before, made.documents, TRAINED, directions(made), SHORT, 0).crosscoder
    (batch, *_) = EffectText.draw(made.documents, HELD_OUT, 1 << 20, 256, 0).batches()
    folded = with_folded_norms(before)
    codes, own = encode_patched(before, batch), encode_patched(after, batch)
    assert own.token.equal(codes.token)
    assert own.latent.equal(codes.latent)
    norms = before.code_norms().detach()[codes.latent]
    torch.testing.assert_close(own.value, codes.value * norms, rtol=1e-4, atol=1e-5)
    moved = after.W_dec - folded.W_dec
    # Adam takes steps of one size, whatever the scale of a model.
    torch.testing.assert_close(moved[:, 0], -moved[:, 1], rtol=0.05, atol=1e-4)


def test_an_identity_pair_is_left_as_it_is() -> None:
    made = trial(is_edited=False)
    crosscoder = random_dictionary(made)
    weights = {name: tensor.clone() for name, tensor in crosscoder.state_dict().items()}
    result = tune_decoders(crosscoder, made.documents, TRAINED, directions(made), SETTINGS, 0)
    assert result.crosscoder is crosscoder
    assert result.n_steps == 0
    assert all(weights[name].equal(each) for name, each in crosscoder.state_dict().items())


def test_the_same_seed_gives_the_same_weights_and_only_the_given_documents_count() -> None:
    made = trial()
    first, again = (tuned(made, SHORT).crosscoder for _ in range(2))
    other = tuned(made, SHORT, range(4, 8)).crosscoder
    assert first.W_dec.equal(again.W_dec)
    assert not first.W_dec.equal(other.W_dec)


@pytest.mark.parametrize("target", [0, 1])
def test_gradients_are_those_of_the_loss(target: int) -> None:
    made = trial()
    crosscoder = with_folded_norms(random_dictionary(made))
    (batch, *_) = EffectText.draw(made.documents, HELD_OUT, 1 << 20, 256, 0).batches()
    codes = encode_patched(crosscoder, batch)
    direction = directions(made)[1 - target]
    run = PatchedRun(batch, direction)
    rows = DifferenceRows(crosscoder, direction.target, direction.reference)
    reference = run.reference[run.patched]
    kl, gradient = run.gradient(reference + rows.sums(codes, len(reference)), run.patched)
    decoder, bias = torch.zeros_like(crosscoder.W_dec), torch.zeros_like(crosscoder.b_dec)
    rows.add_gradient(codes, gradient, decoder, bias)

    dense = torch.zeros(len(reference), crosscoder.config.n_latents)
    dense[codes.token, codes.latent] = codes.value
    raw = crosscoder.denormalise(crosscoder.decode_dense(dense))
    change = raw[:, direction.target] - raw[:, direction.reference]
    constant = rows.constant
    hidden = run.upper.hidden(run.input_ids, run.activations(reference + change - constant))
    whole = run.upper.hidden(run.input_ids, run.target)
    log_p, log_q = (run.upper.logits(each[run.patched]).log_softmax(-1) for each in (whole, hidden))
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1)
    torch.testing.assert_close(kl, divergence.detach(), rtol=1e-3, atol=1e-4)
    divergence.sum().backward()  # type: ignore[no-untyped-call]
    assert crosscoder.W_dec.grad is not None
    assert crosscoder.b_dec.grad is not None
    torch.testing.assert_close(decoder, crosscoder.W_dec.grad, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(bias, crosscoder.b_dec.grad, rtol=1e-2, atol=1e-3)


def test_a_rate_that_is_too_high_and_documents_without_text_are_errors() -> None:
    made = trial()
    wild = OutputTuningSettings(tuning_steps=20, tuning_tokens=48, tuning_rate=1e38)
    with pytest.raises(WorkError, match=r"lower train\.tuning_rate"):
        tuned(made, wild)
    with pytest.raises(InputError, match="no document"):
        tuned(made, SETTINGS, [])
