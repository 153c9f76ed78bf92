from __future__ import annotations

from pathlib import Path

import pytest
import torch
from crosscoders import planted_store, random_batch, random_crosscoder, small_config

from crosscoder.checkpoints import load_crosscoder
from crosscoder.config import TrainConfig
from crosscoder.losses import in_own_coordinates, scale_difference
from crosscoder.train import train


def test_weight_one_is_the_plain_loss_and_the_same_crosscoder() -> None:
    z, crosscoder = random_batch(), random_crosscoder()
    assert scale_difference(z, 1.0) is z
    assert in_own_coordinates(crosscoder, 1.0) is crosscoder


@pytest.mark.parametrize("n_models", [2, 3])
def test_difference_of_the_error_counts_weight_times_and_its_common_part_once(
    n_models: int,
) -> None:
    error = random_batch(n_models=n_models)
    mean = error.mean(1, keepdim=True)
    expected = n_models * mean.square().sum() + 7 * (error - mean).square().sum()
    torch.testing.assert_close(scale_difference(error, 7.0).square().sum(), expected)


def test_two_models_are_the_rotated_coordinates_with_the_difference_scaled() -> None:
    z = random_batch()
    out = scale_difference(z, 9.0)
    torch.testing.assert_close(out[:, 0] + out[:, 1], z[:, 0] + z[:, 1])
    torch.testing.assert_close(out[:, 0] - out[:, 1], 3 * (z[:, 0] - z[:, 1]))
    torch.testing.assert_close(scale_difference(out, 1 / 9), z)


@pytest.mark.parametrize("weight", [0.25, 16.0])
def test_own_coordinates_select_the_same_latents_and_decode_the_same(weight: float) -> None:
    stretched, z = random_crosscoder(), random_batch()
    with torch.no_grad():
        stretched.W_dec[3] = 0
        stretched.theta.fill_(0.8)
    own = in_own_coordinates(stretched, weight)
    there = stretched.encode_thresholded(scale_difference(z, weight))
    here = own.encode_thresholded(z)
    assert there.n_active > 10
    assert torch.equal(there.token, here.token)
    assert torch.equal(there.latent, here.latent)
    decoded = stretched.decode(there, len(z))
    torch.testing.assert_close(own.decode(here, len(z)), scale_difference(decoded, 1 / weight))


def test_weight_one_trains_to_the_same_weights_as_without_the_option(tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store", n_tokens=800).store
    config = small_config(d_model=32, n_latents=40, k=3)
    for name, changes in (("plain", {}), ("one", {"difference_weight": 1.0})):
        settings = TrainConfig(epochs=2, batch_size=128, **changes)
        train(store, config, settings, tmp_path / name)
    plain, one = (load_crosscoder(tmp_path / name) for name in ("plain", "one"))
    assert torch.equal(plain.W_dec, one.W_dec)
    assert plain.config.code_norm == "sum_of_norms"


@pytest.mark.slow
def test_training_minimises_the_weighted_loss(tmp_path: Path) -> None:
    store = planted_store(tmp_path / "store", n_tokens=1500).store
    config = small_config(d_model=32, n_latents=40, k=3)
    losses = {}
    for weight in (1.0, 25.0):
        settings = TrainConfig(
            epochs=20, batch_size=128, learning_rate=3e-3, difference_weight=weight
        )
        train(store, config, settings, tmp_path / str(weight))
        crosscoder = load_crosscoder(tmp_path / str(weight))
        z = crosscoder.normalise(next(store.batches(2000)))
        error = z - crosscoder.decode(crosscoder.encode_thresholded(z), len(z))
        difference = error[:, 0] - error[:, 1]
        losses[weight] = (float(difference.square().sum()), float(error.square().sum()))
    assert losses[25.0][0] < losses[1.0][0], "less of the difference is left over"
    assert losses[25.0][1] > losses[1.0][1], "at the price of the rest"
