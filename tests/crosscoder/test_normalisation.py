from __future__ import annotations

import pytest
import torch
from crosscoders import random_batch
from hypothesis import given, settings
from hypothesis import strategies as st

from crosscoder.errors import InputError
from crosscoder.model import Normaliser, fit_normaliser


def raw_tokens() -> torch.Tensor:
    x = random_batch(400).float()
    x[:, 1] = 50 * x[:, 1] + 1000
    return x


def test_fitted_activations_have_mean_zero_and_mean_squared_norm_d() -> None:
    x = raw_tokens()
    z = fit_normaliser([x]).normalise(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(2, 6), atol=1e-4, rtol=0)
    squared_norm = z.square().sum(-1).mean(0)
    torch.testing.assert_close(squared_norm, torch.full((2,), 6.0), atol=1e-3, rtol=0)


@given(st.lists(st.integers(0, 400), max_size=5))
@settings(max_examples=25, deadline=None)
def test_fit_does_not_depend_on_how_tokens_are_batched(cuts: list[int]) -> None:
    x = raw_tokens().double()
    whole = fit_normaliser([x])
    parts = fit_normaliser(x.tensor_split(sorted(cuts)))
    torch.testing.assert_close(parts.mean, whole.mean)
    torch.testing.assert_close(parts.scale, whole.scale)


def test_denormalise_undoes_normalise() -> None:
    x = raw_tokens().double()
    fitted = fit_normaliser([x])
    normaliser = Normaliser(fitted.mean.double(), fitted.scale.double())
    torch.testing.assert_close(normaliser.denormalise(normaliser.normalise(x)), x)


def test_identity_changes_nothing() -> None:
    x = raw_tokens()
    assert torch.equal(Normaliser.identity(2, 6).normalise(x), x)


def test_no_token_is_refused() -> None:
    with pytest.raises(InputError, match="no unmasked token"):
        fit_normaliser([])


def test_equal_tokens_of_a_model_are_refused() -> None:
    x = raw_tokens()
    x[:, 1] = 2.0
    with pytest.raises(InputError, match="model 1 are equal"):
        fit_normaliser([x])


def test_value_that_is_not_finite_is_refused() -> None:
    x = raw_tokens()
    x[3, 0, 0] = float("inf")
    with pytest.raises(InputError, match="not finite"):
        fit_normaliser([x])
