from __future__ import annotations

import pytest
import torch
from crosscoders import random_batch, random_crosscoder
from hypothesis import given, settings
from hypothesis import strategies as st

from crosscoder.errors import InputError
from crosscoder.evaluate import calibrate_theta, measure_quality
from crosscoder.model import Normaliser


@given(st.integers(1, 6), st.integers(1, 200))
@settings(max_examples=30, deadline=None)
def test_theta_gives_exactly_k_active_latents_per_token(k: int, batch_size: int) -> None:
    crosscoder, x = random_crosscoder(k=k), random_batch(200)
    theta = calibrate_theta(crosscoder, lambda: x.split(batch_size), k)
    crosscoder.theta.fill_(theta)
    assert crosscoder.encode_thresholded(x).n_active == 200 * k


def test_theta_is_the_order_statistic_of_the_weighted_activations() -> None:
    crosscoder, x = random_crosscoder(), random_batch(100)
    v = (
        (crosscoder.encode(x) * crosscoder.code_norms())
        .detach()
        .flatten()
        .sort(descending=True)
        .values
    )
    theta = calibrate_theta(crosscoder, lambda: [x], 3)
    assert theta == pytest.approx(float((v[299] + v[300]) / 2), rel=1e-12)


def test_theta_is_zero_when_fewer_pairs_are_positive_than_wanted() -> None:
    assert calibrate_theta(random_crosscoder(), lambda: [random_batch(50)], 16) == 0


def test_fve_is_one_minus_the_ratio_of_sums_over_the_whole_set() -> None:
    crosscoder, x = random_crosscoder(), random_batch(90)
    crosscoder.theta.fill_(0.7)
    codes = crosscoder.encode_thresholded(x)
    x_hat = crosscoder.decode(codes, 90).detach()
    quality = measure_quality(crosscoder, lambda: x.split(17))
    for model, row in enumerate(quality.fve):
        error = (x - x_hat)[:, model].square().sum()
        spread = (x - x.mean(0))[:, model].square().sum()
        assert row.fve == pytest.approx(float(1 - error / spread))
    assert quality.n_tokens == 90
    assert quality.l0 == codes.n_active / 90
    assert quality.inactive_share == 1 - len(codes.latent.unique()) / 16


def test_fve_is_the_same_in_raw_space() -> None:
    crosscoder = random_crosscoder()
    crosscoder.theta.fill_(0.7)
    normaliser = Normaliser(torch.full((2, 6), 3.0).double(), torch.tensor([2.0, 50.0]).double())
    crosscoder.act_mean.copy_(normaliser.mean)
    crosscoder.act_scale.copy_(normaliser.scale)
    z = random_batch(90)
    x = normaliser.denormalise(z)
    quality = measure_quality(crosscoder, lambda: [x])
    x_hat = crosscoder.denormalise(crosscoder.decode(crosscoder.encode_thresholded(z), 90))
    raw = 1 - (x - x_hat).square().sum((0, 2)) / (x - x.mean(0)).square().sum((0, 2))
    assert [row.fve for row in quality.fve] == pytest.approx(raw.tolist())


def test_no_token_is_refused() -> None:
    with pytest.raises(InputError, match="held-out token"):
        calibrate_theta(random_crosscoder(), list, 3)
    with pytest.raises(InputError, match="held-out token"):
        measure_quality(random_crosscoder(), list)
