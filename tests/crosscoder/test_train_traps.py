"""Mistakes that published crosscoder code made, or that copies of it make, each as a test."""

from __future__ import annotations

import pytest
import torch
from crosscoders import random_batch, random_crosscoder

from crosscoder.batch_topk import batch_topk
from crosscoder.config import ReconstructionLoss
from crosscoder.losses import LossSettings, crosscoder_loss
from crosscoder.model import Crosscoder


def reconstruction(crosscoder: Crosscoder, z: torch.Tensor, kind: ReconstructionLoss) -> float:
    settings = LossSettings(reconstruction=kind, k=3)
    return float(crosscoder_loss(crosscoder, z, settings).reconstruction)


def test_trap_coefficients_do_not_carry_over_from_the_squared_to_the_unsquared_loss() -> None:
    crosscoder, z = random_crosscoder(), random_batch()
    with torch.no_grad():
        crosscoder.b_enc.fill_(-1000)
        crosscoder.b_dec.zero_()
    powers: dict[ReconstructionLoss, int] = {"squared": 2, "unsquared": 1}
    for kind, power in powers.items():
        once, thrice = (reconstruction(crosscoder, factor * z, kind) for factor in (1, 3))
        assert thrice == pytest.approx(3**power * once)


def test_trap_selection_is_by_v_and_the_unscaled_activation_is_decoded() -> None:
    crosscoder, z = random_crosscoder(), random_batch()
    with torch.no_grad():
        crosscoder.W_dec[0] *= 100
        crosscoder.W_enc[:, :, 0] /= 100
        crosscoder.b_enc[0] /= 100
    encoded = crosscoder.encode_topk(z, 40)
    activation = crosscoder.encode(z)[encoded.token, encoded.latent]
    torch.testing.assert_close(encoded.value, activation)
    # Small activation, large decoder: chosen for its v, which plain activations would not be.
    assert 0 in encoded.latent.tolist()
    plain = batch_topk(crosscoder.encode(z).detach(), 40)
    assert 0 not in plain.latent.tolist()


def test_trap_batch_topk_counts_tokens_and_refuses_documents_by_positions() -> None:
    crosscoder, z = random_crosscoder(), random_batch(24)
    documents = z.view(4, 6, *z.shape[1:])
    with pytest.raises(ValueError, match="flatten the text"):
        crosscoder.encode_topk(documents, 3 * 4)
    with pytest.raises(ValueError, match="flatten the text"):
        batch_topk(torch.ones(4, 6, 16), 3 * 4)
    losses = crosscoder_loss(crosscoder, documents.flatten(0, 1), LossSettings(k=3))
    assert losses.codes.n_active == 3 * 24
