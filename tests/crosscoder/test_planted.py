from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from interval_coverage import interval_coverage
from planted_data import (
    DECOUPLED_COSINE,
    PairClass,
    PlantedConfig,
    PlantedCount,
    generate_planted,
)
from planted_trial import (
    LatentMatch,
    Trial,
    TrialConfig,
    match_latents,
    pooled,
    run_trial,
    score_class,
)

from crosscoder.checkpoints import load_crosscoder
from crosscoder.config import TrainConfig
from crosscoder.isolation import select_latents
from crosscoder.isolation_rules import isolation_rule
from crosscoder.memory_store import noisy_copy_store
from crosscoder.model import CrosscoderConfig
from crosscoder.scaling import latent_scaling
from crosscoder.train import train

SMALL = PlantedConfig(
    d_model=32,
    shared=PlantedCount(14, 2),
    own=PlantedCount(3, 2),
    shrunk=PlantedCount(2, 1),
    decoupled=PlantedCount(2, 1),
    rotated=PlantedCount(2, 1),
    n_documents=500,
)
THREE = ("pt", "it", "simpo")
SMALL_TRIAL = TrialConfig(
    planted=SMALL,
    n_latents=80,
    k=2,
    train=TrainConfig(epochs=24, batch_size=512, learning_rate=3e-3),
)


@pytest.fixture(scope="module")
def trial_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("planted")


@pytest.fixture(scope="module")
def trial(trial_folder: Path) -> Trial:
    return run_trial(SMALL_TRIAL, trial_folder)


def test_every_latent_fires_at_its_density_and_in_bursts() -> None:
    planted = generate_planted(replace(SMALL, n_documents=1500))
    fires = planted.truth.strengths > 0
    share = fires.float().mean(0)
    wanted = torch.where(planted.truth.rare, SMALL.rare_density, SMALL.density)
    assert ((share / wanted - 1).abs() < 0.5).all()
    documents = torch.cat([shard.document for shard in planted.store.shards()]).long()
    frequent = (~planted.truth.rare).nonzero().flatten()[:5]
    for latent in frequent.tolist():
        expected_if_scattered = 1 - (1 - share[latent]) ** 48
        active = len(documents[fires[:, latent]].unique()) / 1500
        assert active < 0.8 * expected_if_scattered


def test_latents_of_one_group_fire_together() -> None:
    def largest_correlation(correlation: float) -> float:
        config = replace(SMALL, correlation=correlation, n_documents=2000)
        truth = generate_planted(config).truth
        shared = [i for i, kind in enumerate(truth.kind) if kind == "shared" and not truth.rare[i]]
        table = np.corrcoef((truth.strengths[:, shared] > 0).T.numpy())
        return float((table - np.eye(len(shared))).max())

    assert largest_correlation(0.6) > 0.15 > largest_correlation(0.0)


@pytest.mark.parametrize("names", [("base", "tuned"), THREE])
def test_directions_are_what_their_kind_says(names: tuple[str, ...]) -> None:
    truth = generate_planted(replace(SMALL, model_names=names, n_documents=5)).truth
    lengths = truth.directions.norm(dim=-1)
    for index, kind in enumerate(truth.kind):
        rows = truth.directions[index]
        if kind == "shared":
            assert torch.equal(rows[0], rows[-1])
        if kind == "own":
            assert 0 < (lengths[index] == 0).sum() < len(names)
        if kind == "shrunk":
            assert sorted(lengths[index].tolist())[-1] == pytest.approx(1)
            assert 0.3 <= float(lengths[index].min()) <= float(lengths[index].max())
    decoupled = [i for i, kind in enumerate(truth.kind) if kind == "decoupled"]
    twins = [i for i in decoupled if truth.concept[i] == truth.concept[decoupled[0]]]
    assert len(twins) == len(names)
    first, second = (truth.directions[i, m] for m, i in enumerate(twins[:2]))
    assert float(first @ second) == pytest.approx(DECOUPLED_COSINE, abs=0.15)
    fires = truth.strengths[:, twins[:2]] > 0
    assert torch.equal(fires[:, 0], fires[:, 1])


def test_truth_names_the_classes_of_every_ordered_pair() -> None:
    truth = generate_planted(replace(SMALL, model_names=THREE, n_documents=5)).truth
    forward, backward = truth.classes("simpo", "pt"), truth.classes("pt", "simpo")
    swapped = {"target_only": "reference_only", "reference_only": "target_only"}
    assert backward == tuple(swapped.get(one, one) for one in forward)
    # Owned by simpo alone, or by simpo and it, but not by pt; five a set of owners.
    assert forward.count("target_only") == 10
    assert forward.count("absent") == 5


def test_equal_configs_give_equal_activations_and_other_text_has_the_same_dictionary() -> None:
    one, same = generate_planted(SMALL), generate_planted(SMALL)
    other = generate_planted(replace(SMALL, text_seed=7))
    assert one.store.manifest.key == same.store.manifest.key
    assert one.store.manifest.key != other.store.manifest.key
    assert torch.equal(one.truth.directions, other.truth.directions)
    assert torch.equal(one.scale, other.scale)


def test_correlation_that_leaves_nothing_to_the_latent_is_refused() -> None:
    with pytest.raises(ValueError, match="leave a share"):
        generate_planted(replace(SMALL, correlation=0.8, burstiness=0.3))


def test_precision_counts_what_is_matched_to_nothing_as_wrong() -> None:
    match = LatentMatch(
        true_latent=np.array([0, 0, 1, -1, 2]),
        correlation=np.array([0.9, 0.8, 0.7, 0.1, 0.9]),
        cosine=np.ones(5),
    )
    called = np.array([True, True, True, True, False])
    classes: tuple[PairClass, ...] = ("target_only", "shared", "target_only")
    rare = torch.tensor([False, False, True])
    score = score_class(called, match, classes, ("target_only",), rare)
    assert (score.n_called, score.n_right) == (4, 2)
    assert (score.n_true, score.n_found) == (2, 1)
    assert (score.precision, score.recall, score.recall_rare) == (0.5, 0.5, 0.0)
    assert pooled([score, score]).n_right == 4


@pytest.mark.slow
def test_trap_interval_rule_finds_planted_latents_rare_ones_included(trial: Trial) -> None:
    """Bins alone miss rare latents; shrunk, decoupled and rotated ones are not specific."""
    significant = [score for score in trial.scores if score.method == "significant"]
    assert len(significant) == 2
    only = pooled([score.target_only for score in significant])
    assert only.n_true_rare == 4
    assert only.precision >= 0.95
    assert only.recall >= 0.9
    assert only.recall_rare >= 0.75
    for score in significant:
        called = {name: n for name, n, _ in score.n_called_of_class}
        assert called == {"shared": 0, "shrunk": 0, "decoupled": 0, "rotated": 0}


@pytest.mark.slow
def test_matched_latents_point_where_the_true_ones_do(trial: Trial) -> None:
    sure = trial.match.correlation > 0.95
    assert sure.sum() > 20
    assert np.median(trial.match.cosine[sure]) > 0.98


@pytest.mark.slow
def test_intervals_cover_the_true_ratio(trial: Trial, trial_folder: Path) -> None:
    crosscoder = load_crosscoder(trial_folder)
    rows = interval_coverage(crosscoder, SMALL, 25, n_documents=120, population_documents=2500)
    for ratio in ("nu_error", "nu_reconstruction"):
        counted = [row for row in rows if row.ratio == ratio and row.min_documents >= 20]
        n = sum(row.n_intervals for row in counted)
        assert n > 400
        coverage = sum(row.coverage * row.n_intervals for row in counted if row.n_intervals) / n
        assert 0.92 <= coverage <= 0.975


@pytest.mark.slow
def test_trap_model_against_a_noisy_copy_of_itself_isolates_nothing(tmp_path: Path) -> None:
    """A null run: the copy is not equal, so that nothing holds by construction alone."""
    planted = generate_planted(SMALL)
    store = noisy_copy_store(planted.store, "tuned", 0.1, seed=3, names=("model", "copy"))
    config = CrosscoderConfig(
        n_models=2,
        d_model=SMALL.d_model,
        n_latents=80,
        k=2,
        model_names=store.model_names,
        same_init=False,
    )
    train(store, config, SMALL_TRIAL.train.model_copy(update={"epochs": 10.0}), tmp_path)
    scaling = latent_scaling(load_crosscoder(tmp_path), store)
    for pair in scaling.pairs.values():
        assert pair.defined.sum() > 20
        for kind in ("strict", "significant"):
            assert len(select_latents(pair, isolation_rule(kind=kind)).latent_indices) == 0


@pytest.mark.slow
def test_matching_ignores_latents_that_never_fire(trial: Trial, trial_folder: Path) -> None:
    crosscoder = load_crosscoder(trial_folder)
    with torch.no_grad():
        crosscoder.b_enc[0] = -100
    match = match_latents(crosscoder, generate_planted(SMALL))
    assert (match.true_latent[0], match.correlation[0]) == (-1, 0)
