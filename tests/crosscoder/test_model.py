from __future__ import annotations

import pytest
import torch
from crosscoders import random_batch, random_crosscoder, small_config
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from crosscoder.errors import InputError
from crosscoder.model import Crosscoder


def test_initial_latents_are_shared_and_the_decoder_is_the_encoder_transposed() -> None:
    crosscoder = Crosscoder(small_config(init_norm=0.5), torch.Generator().manual_seed(0))
    assert torch.equal(crosscoder.W_dec[:, 0], crosscoder.W_dec[:, 1])
    assert torch.equal(crosscoder.W_enc, crosscoder.W_dec.permute(1, 2, 0))
    torch.testing.assert_close(crosscoder.decoder_norms(), torch.full((16, 2), 0.5))
    assert crosscoder.W_enc.shape == (2, 6, 16)
    assert crosscoder.W_dec.shape == (16, 2, 6)


def test_models_start_apart_when_the_initialisation_is_not_shared() -> None:
    crosscoder = Crosscoder(small_config(same_init=False), torch.Generator().manual_seed(0))
    assert not torch.equal(crosscoder.W_dec[:, 0], crosscoder.W_dec[:, 1])


def test_weights_come_from_the_generator_alone() -> None:
    torch.manual_seed(1)
    first = Crosscoder(small_config(), torch.Generator().manual_seed(3))
    torch.manual_seed(2)
    second = Crosscoder(small_config(), torch.Generator().manual_seed(3))
    assert torch.equal(first.W_dec, second.W_dec)


def test_selection_weighs_by_the_sum_of_norms_and_leaves_activations_unscaled() -> None:
    crosscoder = random_crosscoder()
    a = crosscoder.encode(random_batch())
    n = crosscoder.W_dec.norm(dim=-1).sum(-1)
    codes = crosscoder.select(a, 30)
    assert torch.equal(codes.value, a[codes.token, codes.latent])
    smallest_kept = (codes.value * n[codes.latent]).min()
    rest = (a * n).index_put((codes.token, codes.latent), torch.zeros(30, dtype=a.dtype))
    assert float(rest.detach().max()) <= float(smallest_kept.detach())


@given(st.lists(st.floats(0.05, 20), min_size=16, max_size=16))
@settings(max_examples=30, deadline=None)
def test_rescaling_a_latent_changes_neither_selection_nor_reconstruction(
    factors: list[float],
) -> None:
    plain, scaled, z = random_crosscoder(), random_crosscoder(), random_batch()
    s = torch.tensor(factors, dtype=torch.float64)
    with torch.no_grad():
        scaled.W_enc /= s
        scaled.b_enc /= s
        scaled.W_dec *= s[:, None, None]
    before, after = plain.encode_topk(z, 60), scaled.encode_topk(z, 60)
    assert torch.equal(before.token, after.token)
    assert torch.equal(before.latent, after.latent)
    torch.testing.assert_close(after.value, before.value / s[after.latent])
    torch.testing.assert_close(
        scaled.decode_encoded(after, 24)[0], plain.decode_encoded(before, 24)[0]
    )


def test_encode_and_select_in_one_go_equals_the_two_steps() -> None:
    crosscoder, z = random_crosscoder(), random_batch()
    codes = crosscoder.select(crosscoder.encode(z), 40)
    encoded = crosscoder.encode_topk(z, 40)
    assert torch.equal(codes.token, encoded.token)
    assert torch.equal(codes.latent, encoded.latent)
    torch.testing.assert_close(codes.value, encoded.value)


def test_thresholded_code_holds_unscaled_activations_above_theta() -> None:
    crosscoder, z = random_crosscoder(), random_batch()
    crosscoder.theta.fill_(0.8)
    a = crosscoder.encode(z).detach()
    expected = a * (a * crosscoder.code_norms() > 0.8)
    codes = crosscoder.encode_thresholded(z)
    assert 0 < codes.n_active < int((a > 0).sum())
    torch.testing.assert_close(codes.dense(24, 16), expected)


def test_uncalibrated_theta_is_refused() -> None:
    with pytest.raises(InputError, match="theta is not calibrated"):
        random_crosscoder().encode_thresholded(random_batch())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_theta_stays_exact_whatever_the_weights_become(dtype: torch.dtype) -> None:
    crosscoder = random_crosscoder()
    crosscoder.theta.fill_(1 / 3)
    crosscoder.to(dtype)
    assert crosscoder.W_enc.dtype == dtype
    assert crosscoder.theta.dtype == torch.float64
    assert float(crosscoder.theta) == 1 / 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_names": ("base",)}, "1 names for n_models = 2"),
        ({"model_names": ("base", "base")}, "twice"),
        ({"k": 17}, "exceeds n_latents"),
        ({"n_features": 3}, "n_features"),
    ],
)
def test_config_that_contradicts_itself_is_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        small_config(**changes)


def test_unknown_model_name_is_named() -> None:
    with pytest.raises(InputError, match="'other': this crosscoder has base, tuned"):
        small_config().model_index("other")
