"""Encode, select, decode, losses and every gradient against a dense float64 reference."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from crosscoders import random_batch, random_crosscoder

from crosscoder import batch_topk as dead_codes
from crosscoder.batch_topk import DeadBlock, DeadPairs
from crosscoder.losses import Losses, LossSettings, crosscoder_loss
from crosscoder.model import Crosscoder

DEAD = torch.tensor([1, 4, 7, 9, 12])


@dataclass
class Reference:
    """The formulas written out with dense tensors and left to autograd."""

    weights: dict[str, torch.Tensor]

    @classmethod
    def of(cls, crosscoder: Crosscoder) -> Reference:
        names = ("W_enc", "W_dec", "b_enc", "b_dec")
        return cls({n: getattr(crosscoder, n).detach().clone().requires_grad_() for n in names})

    def encode(self, z: torch.Tensor) -> torch.Tensor:
        w = self.weights
        return torch.relu(torch.einsum("bmd,mdf->bf", z, w["W_enc"]) + w["b_enc"])

    def norms(self) -> torch.Tensor:
        return self.weights["W_dec"].square().sum(-1).sqrt().sum(-1)

    def select(self, a: torch.Tensor, k_total: int) -> torch.Tensor:
        v = (a * self.norms()).detach().flatten()
        chosen = torch.topk(v, k_total).indices
        mask = torch.zeros_like(v).index_fill_(0, chosen, 1.0) * (v > 0)
        return a * mask.view_as(a)

    def decode(self, f: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bf,fmd->bmd", f, self.weights["W_dec"]) + self.weights["b_dec"]

    def auxiliary(
        self, a: torch.Tensor, residual: torch.Tensor, dead: torch.Tensor
    ) -> torch.Tensor:
        k_aux = min(residual.shape[-1] // 2, len(dead))
        v = (a[:, dead] * self.norms()[dead]).detach()
        mask = torch.zeros_like(v).scatter(1, torch.topk(v, k_aux, dim=1).indices, 1.0)
        estimate = torch.einsum("bf,fmd->bmd", a[:, dead] * mask, self.weights["W_dec"][dead])
        target = residual.detach()
        missed = (target - estimate).square().sum((1, 2)).mean()
        return missed / (target - target.mean(0)).square().sum((1, 2)).mean()

    def gradients(self, loss: torch.Tensor) -> dict[str, torch.Tensor]:
        found = torch.autograd.grad(loss, list(self.weights.values()))
        return dict(zip(self.weights, found, strict=True))


def assert_same_gradients(
    crosscoder: Crosscoder, losses: Losses, expected: dict[str, torch.Tensor]
) -> None:
    torch.autograd.backward(losses.total)
    for name, parameter in crosscoder.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], msg=lambda m, n=name: n + m)


def test_encode_select_and_decode_equal_the_dense_formulas() -> None:
    crosscoder, z = random_crosscoder(), random_batch()
    reference = Reference.of(crosscoder)
    a = reference.encode(z)
    torch.testing.assert_close(crosscoder.encode(z), a)
    expected = reference.select(a, 3 * 24)
    codes = crosscoder.select(crosscoder.encode(z), 3 * 24)
    assert codes.n_active == 3 * 24
    torch.testing.assert_close(codes.dense(24, 16), expected)
    torch.testing.assert_close(crosscoder.decode(codes, 24), reference.decode(expected))


@pytest.mark.parametrize("n_models", [1, 2, 3])
@pytest.mark.parametrize("kind", ["squared", "unsquared"])
def test_batch_topk_loss_and_gradients_equal_the_dense_formulas(kind: str, n_models: int) -> None:
    names = tuple(f"model-{i}" for i in range(n_models))
    crosscoder = random_crosscoder(n_models=n_models, model_names=names)
    z = random_batch(n_models=n_models)
    reference = Reference.of(crosscoder)
    error = z - reference.decode(reference.select(reference.encode(z), 3 * 24))
    if kind == "squared":
        loss = error.square().sum((1, 2)).mean()
    else:
        loss = error.square().sum(-1).sqrt().mean()
    losses = crosscoder_loss(crosscoder, z, LossSettings(reconstruction=kind, k=3))
    torch.testing.assert_close(losses.total.detach(), loss.detach())
    torch.testing.assert_close(losses.squared_errors, error.detach().square().sum((0, 2)))
    assert_same_gradients(crosscoder, losses, reference.gradients(loss))


@pytest.mark.parametrize("dead", [DEAD, DEAD[:2]], ids=["more than d//2", "fewer than d//2"])
def test_auxk_and_its_gradients_equal_the_dense_formulas(dead: torch.Tensor) -> None:
    assert_auxk_equals_the_dense_formulas(random_crosscoder(), random_batch(), dead)


def assert_auxk_equals_the_dense_formulas(
    crosscoder: Crosscoder, z: torch.Tensor, dead: torch.Tensor
) -> None:
    reference = Reference.of(crosscoder)
    a = reference.encode(z)
    error = z - reference.decode(reference.select(a, 3 * 24))
    auxiliary = reference.auxiliary(a, error, dead)
    loss = error.square().sum((1, 2)).mean() + 0.5 * auxiliary
    settings = LossSettings(k=3, aux_coefficient=0.5)
    losses = crosscoder_loss(crosscoder, z, settings, dead)
    torch.testing.assert_close(losses.auxiliary, auxiliary.detach())
    assert_same_gradients(crosscoder, losses, reference.gradients(loss))


def test_l1_loss_and_gradients_equal_the_dense_formulas() -> None:
    crosscoder, z = random_crosscoder(activation="l1"), random_batch()
    reference = Reference.of(crosscoder)
    a = reference.encode(z)
    penalty = (a * reference.norms()).sum(-1).mean()
    error = z - reference.decode(a)
    loss = error.square().sum((1, 2)).mean() + 0.1 * penalty
    losses = crosscoder_loss(crosscoder, z, LossSettings(l1_coefficient=0.1))
    torch.testing.assert_close(losses.sparsity, penalty.detach())
    assert_same_gradients(crosscoder, losses, reference.gradients(loss))


def test_gradients_reach_the_activations_that_are_encoded() -> None:
    crosscoder = random_crosscoder()
    z = random_batch().requires_grad_()
    reference = Reference.of(crosscoder)
    expected = reference.select(reference.encode(z), 3 * 24).square().sum()
    (gradient,) = torch.autograd.grad(expected, z)
    value = crosscoder.encode_topk(z, 3 * 24).value
    (found,) = torch.autograd.grad(value.square().sum(), z)
    torch.testing.assert_close(found, gradient)


def test_selection_that_is_empty_has_zero_gradients_and_reconstructs_the_bias() -> None:
    crosscoder, z = random_crosscoder(), random_batch()
    with torch.no_grad():
        crosscoder.b_enc.fill_(-100)
    losses = crosscoder_loss(crosscoder, z, LossSettings(k=3))
    torch.autograd.backward(losses.total)
    assert losses.codes.n_active == 0
    assert bool(losses.threshold.isnan())
    assert crosscoder.W_enc.grad is not None
    assert float(crosscoder.W_enc.grad.abs().max()) == 0
    expected = (z - crosscoder.b_dec).square().sum((1, 2)).mean()
    torch.testing.assert_close(losses.reconstruction, expected.detach())


def test_loss_changes_nothing_in_the_crosscoder() -> None:
    crosscoder, z = random_crosscoder(), random_batch()
    before = {name: tensor.clone() for name, tensor in crosscoder.state_dict().items()}
    first = crosscoder_loss(crosscoder, z, LossSettings(k=3, aux_coefficient=1.0), DEAD)
    second = crosscoder_loss(crosscoder, z, LossSettings(k=3, aux_coefficient=1.0), DEAD)
    assert torch.equal(first.total, second.total)
    for name, tensor in crosscoder.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(("density", "form"), [(2.0, DeadPairs), (0.0, DeadBlock)])
@pytest.mark.parametrize("dead", [DEAD, DEAD[:2]], ids=["more than d//2", "fewer than d//2"])
def test_auxk_has_the_same_gradients_in_its_dense_and_its_sparse_form(
    dead: torch.Tensor, density: float, form: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_codes, "DENSE_FROM", density)
    monkeypatch.setattr(dead_codes, "RANKED_AT_ONCE", 7)
    crosscoder, z = random_crosscoder(), random_batch()
    assert isinstance(crosscoder.encode_topk(z, 40, dead).dead, form)
    assert_auxk_equals_the_dense_formulas(crosscoder, z, dead)


def test_auxk_of_latents_that_never_fire_is_all_of_the_residual() -> None:
    crosscoder, z = random_crosscoder(), random_batch()
    with torch.no_grad():
        crosscoder.b_enc[DEAD] = -100
    losses = crosscoder_loss(crosscoder, z, LossSettings(k=3, aux_coefficient=1.0), DEAD)
    torch.autograd.backward(losses.total)
    assert crosscoder.W_dec.grad is not None
    assert float(crosscoder.W_dec.grad[DEAD].abs().max()) == 0
    assert float(losses.auxiliary) >= 1
