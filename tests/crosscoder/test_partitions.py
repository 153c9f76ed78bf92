from __future__ import annotations

from pathlib import Path

import pytest
import torch
from crosscoders import planted_store, small_config
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from crosscoder.checkpoints import load_crosscoder
from crosscoder.config import TrainConfig
from crosscoder.errors import InputError
from crosscoder.losses import exclusive_latents
from crosscoder.model import Crosscoder
from crosscoder.scaling import latent_scaling
from crosscoder.train import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Crosscoder, Path]:
    folder = tmp_path_factory.mktemp("exclusive")
    store = planted_store(folder / "store", n_tokens=3000).store
    config = small_config(d_model=32, n_latents=40, k=3)
    settings = TrainConfig(epochs=20, batch_size=128, learning_rate=3e-3, exclusive_fraction=0.25)
    train(store, config, settings, folder / "out")
    return load_crosscoder(folder / "out"), folder


def test_excluded_weights_are_exactly_zero_after_training(
    trained: tuple[Crosscoder, Path],
) -> None:
    crosscoder, _ = trained
    norms = crosscoder.decoder_norms().detach()
    assert (norms[:10, 1] == 0).all()
    assert (norms[10:20, 0] == 0).all()
    assert (crosscoder.W_enc[1, :, :10] == 0).all()
    assert (crosscoder.W_enc[0, :, 10:20] == 0).all()
    assert (norms[:10, 0] > 0).all()
    assert (norms[20:] > 0).all()


def test_exclusive_latents_have_a_delta_norm_of_exactly_0_or_1(
    trained: tuple[Crosscoder, Path],
) -> None:
    crosscoder, folder = trained
    store = planted_store(folder / "again", n_tokens=3000).store
    pair = latent_scaling(crosscoder, store).pair("tuned", "base")
    assert (pair.delta_norm[:10] == 0).all()
    assert (pair.delta_norm[10:20] == 1).all()
    assert ((pair.delta_norm[20:] > 0) & (pair.delta_norm[20:] < 1)).all()


def test_exclusive_latents_learn_the_directions_of_their_model(
    trained: tuple[Crosscoder, Path],
) -> None:
    crosscoder, folder = trained
    planted = planted_store(folder / "truth", n_tokens=3000)
    own = torch.nn.functional.normalize(crosscoder.W_dec[10:20, 1].detach(), dim=-1)
    found = (own @ planted.only(1).T).max(0).values
    assert (found > 0.9).sum() >= 3


@given(st.integers(2, 500), st.integers(2, 3), st.floats(0, 0.33))
def test_parts_are_disjoint_and_leave_the_rest_to_all(
    n_latents: int, n_models: int, share: float
) -> None:
    parts = exclusive_latents(n_latents, n_models, share)
    together = [latent for part in parts for latent in part]
    assert len(set(together)) == len(together) <= n_latents
    assert {len(part) for part in parts} == {int(share * n_latents)}


def test_parts_that_leave_nothing_to_all_are_refused() -> None:
    with pytest.raises(InputError, match="exclusive_fraction"):
        exclusive_latents(100, 2, 0.5)


def test_exclusive_latents_do_not_go_with_a_weighted_difference() -> None:
    with pytest.raises(ValidationError, match="leave one of them out"):
        TrainConfig(exclusive_fraction=0.1, difference_weight=4)
