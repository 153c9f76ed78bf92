"""Which latents come again under another seed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from crosscoders import small_config
from planted_data import PlantedConfig, PlantedCount, generate_planted
from planted_trial import match_latents

from crosscoder import stability
from crosscoder.checkpoints import load_crosscoder
from crosscoder.config import TrainConfig
from crosscoder.model import Crosscoder, CrosscoderConfig
from crosscoder.scaling import latent_scaling
from crosscoder.stability import seed_stability
from crosscoder.train import train_seeds


def with_rows(rows: torch.Tensor) -> Crosscoder:
    """A crosscoder of two models whose decoder rows are (F, 2 * d)."""
    d_model = rows.shape[1] // 2
    crosscoder = Crosscoder(small_config(n_latents=len(rows), k=2, d_model=d_model))
    with torch.no_grad():
        crosscoder.W_dec.copy_(rows.view(len(rows), 2, d_model))
    return crosscoder


def unit(*shape: int, seed: int) -> torch.Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm(dim=-1, keepdim=True)


def test_a_latent_that_was_only_renumbered_and_rescaled_comes_again() -> None:
    rows = unit(30, 64, seed=0)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    found = seed_stability(with_rows(rows), [with_rows(3 * rows[order])])
    assert torch.equal(order[found.best_index[0]], torch.arange(30))
    assert found.best_cosine == pytest.approx(1, abs=1e-5)
    assert found.span_match == pytest.approx(1, abs=1e-5)
    assert bool(found.is_stable.all())


def test_p_reappear_is_the_share_of_the_others_with_a_counterpart() -> None:
    rows = unit(4, 64, seed=0)
    others = [with_rows(torch.cat([rows[:n], unit(20, 64, seed=n)])) for n in (1, 2, 3, 1)]
    assert seed_stability(with_rows(rows), others).p_reappear.tolist() == [1, 0.5, 0.25, 0]


def test_a_counterpart_fires_about_as_often() -> None:
    rows = unit(4, 64, seed=0)
    own = torch.tensor([0.1, 0.001, 0.1, 0.0])
    other = torch.tensor([0.05, 0.1, 0.0, 0.1])
    found = seed_stability(with_rows(rows), [with_rows(rows)], [own, other])
    assert found.p_reappear.tolist() == [1, 0, 0, 0]
    assert found.best_cosine == pytest.approx(1, abs=1e-5)


def test_a_rarer_row_of_the_same_direction_is_a_counterpart_too() -> None:
    rows = unit(2, 64, seed=0)
    more = torch.cat([rows, rows[:1] + 0.05 * unit(1, 64, seed=1)])
    densities = [torch.tensor([0.001, 0.001]), torch.tensor([0.1, 0.1, 0.002])]
    found = seed_stability(with_rows(rows), [with_rows(more)], densities)
    assert found.p_reappear.tolist() == [1, 0]


def test_a_direction_made_of_others_is_in_their_span_and_has_no_counterpart() -> None:
    parts = torch.linalg.qr(torch.randn(64, 40, generator=torch.Generator().manual_seed(2))).Q.T
    mixed = parts[:3].sum(0, keepdim=True) / 3**0.5
    found = seed_stability(with_rows(mixed.repeat(3, 1)), [with_rows(parts)])
    assert float(found.best_cosine[0, 0]) == pytest.approx(3**-0.5, abs=1e-5)
    assert float(found.span_match[0, 0]) == pytest.approx(1, abs=1e-5)
    assert float(found.p_reappear[0]) == 0


def test_random_rows_match_no_better_than_chance() -> None:
    found = seed_stability(with_rows(unit(200, 64, seed=0)), [with_rows(unit(200, 64, seed=1))])
    assert float(found.p_reappear.mean()) == 0
    assert float(found.mean_span_match.mean()) < 0.6
    assert bool((found.span_match >= found.best_cosine.square() - 1e-5).all())


def test_rows_that_are_equal_or_zero_span_nothing_more() -> None:
    one = unit(1, 64, seed=3)
    other = torch.cat([one, one, one, torch.zeros(20, 64)])
    near = torch.nn.functional.normalize(one + unit(1, 64, seed=4), dim=1)
    own = torch.cat([one, near, torch.zeros(1, 64)])
    found = seed_stability(with_rows(own), [with_rows(other)])
    assert found.span_match[0].tolist() == pytest.approx(
        [1, float(own[1] @ one[0]) ** 2, 0], abs=1e-5
    )
    assert float(found.best_cosine[0, 2]) == 0


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = with_rows(unit(70, 64, seed=0)), with_rows(unit(70, 64, seed=1))
    whole = seed_stability(own, [other])
    monkeypatch.setattr(stability, "CHUNK_BYTES", 20_000)
    in_blocks = seed_stability(own, [other])
    assert torch.allclose(whole.span_match, in_blocks.span_match, atol=1e-5)
    assert torch.equal(whole.best_index, in_blocks.best_index)


def test_crosscoders_that_cannot_be_compared_are_refused() -> None:
    own = with_rows(unit(8, 64, seed=0))
    with pytest.raises(ValueError, match="another seed"):
        seed_stability(own, [])
    with pytest.raises(ValueError, match="decoder rows of shape"):
        seed_stability(own, [with_rows(unit(8, 32, seed=0))])
    scaled = with_rows(unit(8, 64, seed=0))
    scaled.act_scale.mul_(2)
    with pytest.raises(ValueError, match="different scales"):
        seed_stability(own, [scaled])


@pytest.mark.slow
def test_stable_latents_are_planted_ones(tmp_path: Path) -> None:
    """At least half of the other seeds: precision at least .98 at a recall of at least .95."""
    planted = generate_planted(
        PlantedConfig(
            d_model=32,
            shared=PlantedCount(14, 2),
            own=PlantedCount(3, 2),
            shrunk=PlantedCount(2, 1),
            decoupled=PlantedCount(2, 1),
            rotated=PlantedCount(2, 1),
            n_documents=500,
        )
    )
    names = planted.truth.model_names
    config = CrosscoderConfig(n_models=2, d_model=32, n_latents=80, k=2, model_names=names)
    training = TrainConfig(epochs=24, batch_size=512, learning_rate=3e-3)
    folders = [tmp_path / str(seed) for seed in range(3)]
    train_seeds(planted.store, config, training, folders)
    own, *others = (load_crosscoder(folder) for folder in folders)
    scalings = [latent_scaling(each, planted.store) for each in (own, *others)]
    densities = [torch.as_tensor(scaling.density) for scaling in scalings]
    fires = torch.as_tensor(scalings[0].n_documents) >= 8
    is_true = torch.from_numpy(match_latents(own, planted).true_latent >= 0) & fires
    stable = seed_stability(own, others, densities).is_stable & fires
    right = int((stable & is_true).sum())
    assert right >= 0.98 * int(stable.sum())
    assert right >= 0.95 * int(is_true.sum())
