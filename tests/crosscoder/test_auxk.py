"""AuxK on a planted problem: dead latents come back, and with them the planted directions."""

from __future__ import annotations

import pytest
import torch
from crosscoders import small_config

from crosscoder.config import TrainConfig
from crosscoder.losses import LossSettings, crosscoder_loss
from crosscoder.model import Crosscoder
from crosscoder.trainer import StepMetrics, Trainer

N_DIRECTIONS, D_MODEL, N_ALIVE = 24, 32, 6


def planted_batch(seed: int) -> torch.Tensor:
    """512 tokens of 24 directions, half of them the same in both models."""
    fixed = torch.Generator().manual_seed(1)
    directions = torch.randn(N_DIRECTIONS, 2, D_MODEL, generator=fixed)
    directions /= directions.norm(dim=-1, keepdim=True)
    directions[: N_DIRECTIONS // 2, 1] = directions[: N_DIRECTIONS // 2, 0]
    generator = torch.Generator().manual_seed(seed)
    fires = torch.rand(512, N_DIRECTIONS, generator=generator) < 0.1
    strength = fires * (1 + torch.rand(512, N_DIRECTIONS, generator=generator))
    x = torch.einsum("nf,fmd->nmd", strength, directions)
    return 3 * (x + 0.02 * torch.randn(x.shape, generator=generator))


def crosscoder_of_few(scale: float, bias: float) -> Crosscoder:
    """One latent a direction, of which all but six start small, with a bias."""
    config = small_config(n_latents=N_DIRECTIONS, d_model=D_MODEL, k=3)
    crosscoder = Crosscoder(config, torch.Generator().manual_seed(0))
    with torch.no_grad():
        crosscoder.W_enc[:, :, N_ALIVE:] *= scale
        crosscoder.W_dec[N_ALIVE:] *= scale
        crosscoder.b_enc[N_ALIVE:] = bias
    return crosscoder


def after_training(scale: float, bias: float, **changes: object) -> StepMetrics:
    settings = {"learning_rate": 5e-3, "decay_fraction": 0.0, "max_dead_share": 1.0, **changes}
    crosscoder = crosscoder_of_few(scale, bias)
    trainer = Trainer(crosscoder, TrainConfig.model_validate(settings), 300, 2048)
    for seed in range(300):
        metrics = trainer.step(planted_batch(100 + seed))
    return metrics


@pytest.mark.slow
def test_auxk_revives_latents_that_others_crowd_out() -> None:
    without = after_training(0.05, 0.0, aux_coefficient=0.0)
    with_auxk = after_training(0.05, 0.0, revive_dead=False)
    assert without.n_dead >= 3
    assert with_auxk.n_dead == 0
    assert without.fve["base"] < 0.93
    assert with_auxk.fve["base"] > 0.97


@pytest.mark.slow
def test_latents_that_no_token_activates_come_back_only_where_their_biases_are_raised() -> None:
    asleep = after_training(0.1, -1.0, revive_dead=False)
    woken = after_training(0.1, -1.0)
    assert asleep.n_dead >= 10
    assert woken.n_dead <= 2
    assert asleep.fve["base"] < 0.75
    assert woken.fve["base"] > 0.95


@pytest.mark.parametrize("revive", [False, True])
def test_reviving_raises_the_biases_of_unreached_dead_latents_only(
    revive: bool,
) -> None:
    crosscoder, z = crosscoder_of_few(1.0, -1000.0), planted_batch(0)
    dead = torch.tensor([2, 8, 9])
    settings = LossSettings(k=3, aux_coefficient=1.0, revive_dead=revive)
    losses = crosscoder_loss(crosscoder, z, settings, dead)
    torch.autograd.backward(losses.total)
    assert float(losses.total.detach()) == pytest.approx(
        float(losses.reconstruction + losses.auxiliary)
    )
    gradient = crosscoder.b_enc.grad
    assert gradient is not None
    unreached = gradient[[8, 9]]
    assert bool((unreached < 0).all()) if revive else bool((unreached == 0).all())
    assert bool((gradient[10:] == 0).all())
