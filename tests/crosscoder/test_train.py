from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from crosscoders import PlantedData, StopAfter, planted_store, random_batch, small_config
from pydantic import ValidationError

from crosscoder import sparsity
from crosscoder.activations import write_store
from crosscoder.checkpoints import load_crosscoder, read_crosscoder_file
from crosscoder.config import TrainConfig
from crosscoder.errors import InputError, WorkError
from crosscoder.evaluate import measure_quality
from crosscoder.kernels import Workspace
from crosscoder.losses import LossSettings, crosscoder_loss
from crosscoder.model import Crosscoder, CrosscoderConfig
from crosscoder.train import TrainResult, resolve_device, train
from crosscoder.trainer import Trainer

PLANTED = CrosscoderConfig(n_models=2, d_model=32, n_latents=48, k=2, model_names=("base", "tuned"))


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> PlantedData:
    return planted_store(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def trained(planted: PlantedData, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    config = TrainConfig(epochs=20, batch_size=512, learning_rate=3e-3, dead_after_tokens=20_000)
    return train(planted.store, PLANTED, config, tmp_path_factory.mktemp("trained"))


def nearest(planted: torch.Tensor, crosscoder: Crosscoder, model: int) -> torch.Tensor:
    """(n,) index of the latent whose decoder row of a model is closest in direction."""
    cosine = torch.nn.functional.cosine_similarity(
        planted[:, None], crosscoder.W_dec[None, :, model], dim=-1
    )
    assert bool((cosine.amax(1) > 0.9).all())
    return cosine.argmax(1)


@pytest.mark.parametrize("model", [0, 1])
def test_directions_of_one_model_are_recovered_with_almost_no_norm_in_the_other(
    planted: PlantedData, trained: TrainResult, model: int
) -> None:
    crosscoder = load_crosscoder(trained.directory)
    norms = crosscoder.decoder_norms()[nearest(planted.only(model), crosscoder, model)]
    assert bool((norms[:, 1 - model] < 0.3 * norms[:, model]).all())


def test_shared_directions_are_recovered_with_equal_norms(
    planted: PlantedData, trained: TrainResult
) -> None:
    crosscoder = load_crosscoder(trained.directory)
    norms = crosscoder.decoder_norms()[nearest(planted.shared, crosscoder, 0)]
    torch.testing.assert_close(norms[:, 0], norms[:, 1], rtol=0.1, atol=0)


def test_held_out_l0_is_k_and_both_models_are_reconstructed(trained: TrainResult) -> None:
    quality = trained.quality
    assert quality.l0 == pytest.approx(2.0)
    assert [row.model for row in quality.fve] == ["base", "tuned"]
    assert all(row.fve > 0.9 for row in quality.fve)


def test_metrics_have_one_line_per_step(trained: TrainResult) -> None:
    lines = [json.loads(line) for line in (trained.directory / "metrics.jsonl").open()]
    assert [line["step"] for line in lines] == list(range(1, trained.n_steps + 1))
    assert all(math.isfinite(line["loss"]) and line["l0"] == 2 for line in lines)
    assert lines[-1]["n_tokens"] == trained.n_tokens
    assert set(lines[0]["fve"]) == {"base", "tuned"}


def test_config_file_records_the_space_the_layer_and_the_origin(
    planted: PlantedData, trained: TrainResult
) -> None:
    header = read_crosscoder_file(trained.directory)
    assert header.theta == trained.theta
    assert header.crosscoder.layer == 0
    assert header.provenance["activations"] == planted.store.manifest.key
    assert header.provenance["train"]["reconstruction"] == "squared"


def test_normaliser_comes_from_training_documents_only(
    planted: PlantedData, trained: TrainResult
) -> None:
    crosscoder = load_crosscoder(trained.directory)
    x = torch.cat(list(planted.store.batches(4096, documents="train")))
    torch.testing.assert_close(crosscoder.act_mean, x.mean(0), rtol=1e-4, atol=1e-4)
    squared_norm = crosscoder.normalise(x).square().sum(-1).mean(0)
    torch.testing.assert_close(squared_norm, torch.full((2,), 32.0), rtol=1e-4, atol=0)


def test_finished_run_is_returned_and_not_repeated(
    planted: PlantedData, trained: TrainResult
) -> None:
    weights = trained.directory / "crosscoder.safetensors"
    written = weights.stat().st_mtime_ns
    config = TrainConfig(epochs=20, batch_size=512, learning_rate=3e-3, dead_after_tokens=20_000)
    assert train(planted.store, PLANTED, config, trained.directory) == trained
    assert weights.stat().st_mtime_ns == written


def test_seed_decides_the_weights(planted: PlantedData, tmp_path: Path) -> None:
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        config = TrainConfig(epochs=1, batch_size=1024, seed=seed)
        directory = train(planted.store, PLANTED, config, tmp_path / name).directory
        weights.append(load_crosscoder(directory).W_dec)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_l1_crosscoder_trains_and_fires_where_the_activation_is_positive(
    planted: PlantedData, tmp_path: Path
) -> None:
    config = TrainConfig(epochs=2, batch_size=512, l1_coefficient=0.5)
    changes = {"activation": "l1"}
    result = train(planted.store, PLANTED.model_copy(update=changes), config, tmp_path)
    assert result.theta == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert lines[-1]["sparsity"] < lines[0]["sparsity"]


def test_published_preset_follows_the_smallest_selected_value(
    planted: PlantedData, tmp_path: Path
) -> None:
    config = TrainConfig.minder2025(epochs=2, batch_size=512, theta_start_step=2)
    crosscoder_config = PLANTED.model_copy(update={"normalisation": "none"})
    result = train(planted.store, crosscoder_config, config, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    theta = lines[2]["threshold"]
    for line in lines[3:]:
        theta = 0.999 * theta + 0.001 * line["threshold"]
    assert result.theta == pytest.approx(theta, rel=1e-12)
    assert torch.equal(load_crosscoder(tmp_path).act_scale, torch.ones(2))


def test_batch_is_cut_to_the_training_tokens_there_are(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", random_batch(64).float(), model_names=("base", "tuned"))
    config = TrainConfig(epochs=3, batch_size=2048, held_out=0.25)
    result = train(store, small_config(), config, tmp_path / "out")
    assert (result.n_steps, result.n_tokens) == (3, 144)


def test_config_that_does_not_fit_the_activations_is_refused(
    planted: PlantedData, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"crosscoder\.d_model: 6, but the activations have 32"):
        train(planted.store, small_config(), TrainConfig(), tmp_path)


def test_less_than_one_step_is_refused(planted: PlantedData, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"raise train\.epochs or lower train\.batch_size"):
        train(planted.store, PLANTED, TrainConfig(epochs=0.1, batch_size=4096), tmp_path)


def make_trainer(n_steps: int = 10, dead_after: int = 48, **changes: object) -> Trainer:
    crosscoder = Crosscoder(small_config(), torch.Generator().manual_seed(0))
    config = TrainConfig.model_validate({"warmup_steps": 0, **changes})
    return Trainer(crosscoder, config, n_steps, dead_after)


def test_every_setting_of_the_loss_is_the_config_s() -> None:
    config = TrainConfig(
        reconstruction="unsquared",
        aux_coefficient=0.5,
        revive_dead=True,
        l1_coefficient=3.0,
        precision="bfloat16",
    )
    settings, usual = LossSettings.from_config(config, k=7.0), LossSettings()
    assert settings.k == 7.0
    for field in fields(LossSettings):
        assert getattr(settings, field.name) != getattr(usual, field.name), field.name


def test_latent_is_dead_after_so_many_training_tokens_and_alive_once_it_fires() -> None:
    trainer, batch = make_trainer(), random_batch().float()
    with torch.no_grad():
        trainer.crosscoder.b_enc[3] = -1000
    for n_done in (1, 2):
        trainer.step(batch)
        assert (3 in trainer.dead.tolist()) == (n_done == 2)
    with torch.no_grad():
        trainer.crosscoder.b_enc[3] = 1000
    trainer.step(batch)
    assert 3 not in trainer.dead.tolist()


def test_only_training_steps_advance_the_counters_of_dead_latents() -> None:
    trainer, batch = make_trainer(), random_batch().float()
    trainer.step(batch)
    before = trainer.state()["tokens_since_fired"].clone()
    crosscoder_loss(trainer.crosscoder, batch, LossSettings(k=3))
    trainer.crosscoder.theta.fill_(0.0)
    measure_quality(trainer.crosscoder, lambda: [batch])
    assert torch.equal(trainer.state()["tokens_since_fired"], before)


def test_dead_latents_are_moved_by_auxk_alone() -> None:
    moved = []
    for coefficient in (0.0, 1.0):
        trainer = make_trainer(dead_after=1, aux_coefficient=coefficient)
        with torch.no_grad():
            trainer.crosscoder.W_enc[:, :, 3] *= 1e-3
        batch = random_batch().float()
        trainer.step(batch)
        assert 3 in trainer.dead.tolist()
        before = trainer.crosscoder.W_dec[3].detach().clone()
        trainer.crosscoder.W_dec.grad = None
        settings = LossSettings(k=3, aux_coefficient=coefficient)
        losses = crosscoder_loss(trainer.crosscoder, batch, settings, trainer.dead)
        torch.autograd.backward(losses.total)
        assert trainer.crosscoder.W_dec.grad is not None
        moved.append(float(trainer.crosscoder.W_dec.grad[3].norm()))
        assert torch.equal(trainer.crosscoder.W_dec[3], before)
    assert moved[0] == 0 < moved[1]


def test_loss_that_is_not_finite_stops_the_run_before_the_weights_are_spoilt() -> None:
    trainer = make_trainer()
    batch = random_batch().float()
    batch[0, 0, 0] = float("nan")
    with pytest.raises(WorkError, match=r"step 1: the loss is not finite; lower"):
        trainer.step(batch)
    assert bool(torch.isfinite(trainer.crosscoder.W_dec).all())


def test_gradient_is_clipped_to_the_limit() -> None:
    trainer = make_trainer(max_grad_norm=0.5)
    assert trainer.step(random_batch().float()).gradient_norm > 0.5
    first_moment = [t for n, t in trainer.state().items() if n.endswith(".exp_avg")]
    clipped = torch.cat([t.flatten() for t in first_moment]).norm() / 0.1
    assert float(clipped) == pytest.approx(0.5, rel=1e-3)


def test_k_is_the_target_throughout_when_annealing_takes_no_steps() -> None:
    trainer = make_trainer(k_initial=16, k_annealing_steps=0)
    assert [trainer.step(random_batch().float()).l0 for _ in range(3)] == [3, 3, 3]


def test_k_falls_linearly_to_the_target_while_annealing() -> None:
    trainer = make_trainer(k_initial=7, k_annealing_steps=4)
    assert [trainer.step(random_batch().float()).k for _ in range(6)] == [7, 6, 5, 4, 3, 3]


def test_annealing_without_a_first_k_is_refused() -> None:
    with pytest.raises(ValidationError, match="k_initial: missing"):
        TrainConfig(k_annealing_steps=10)


def test_gradient_of_the_encoder_lies_in_memory_like_the_encoder() -> None:
    trainer, batch = make_trainer(), random_batch().float()
    losses = crosscoder_loss(trainer.crosscoder, batch, LossSettings(k=3))
    torch.autograd.backward(losses.total)
    w_enc = trainer.crosscoder.W_enc
    assert w_enc.grad is not None
    assert w_enc.grad.stride() == w_enc.stride()


def test_result_without_a_measurable_fve_is_read_again(tmp_path: Path) -> None:
    x = random_batch(32).float()
    store = write_store(tmp_path / "s", x, document=torch.arange(32), model_names=("base", "tuned"))
    config = TrainConfig(epochs=1, batch_size=16, held_out=0.01)
    result = train(store, small_config(), config, tmp_path / "out")
    assert result.quality.n_tokens == 1
    assert (tmp_path / "out" / "result.json").exists()
    written = (tmp_path / "out" / "result.json").stat().st_mtime_ns
    train(store, small_config(), config, tmp_path / "out")
    assert (tmp_path / "out" / "result.json").stat().st_mtime_ns == written


def test_collapsed_dictionary_stops_the_run_and_says_what_to_change() -> None:
    trainer, batch = make_trainer(dead_after=24, max_dead_share=0.5), random_batch().float()
    with torch.no_grad():
        trainer.crosscoder.b_enc[:9] = -1000
    trainer.step(batch)
    message = (
        r"step 2: 56\.2% of the latents have not fired for 24 tokens; lower train\.learning_rate"
    )
    with pytest.raises(WorkError, match=message):
        trainer.step(batch)


def test_gradient_that_is_not_finite_stops_the_run_before_the_weights_are_spoilt() -> None:
    trainer = make_trainer()
    batch = random_batch().float() * 1e14
    with pytest.raises(WorkError, match="step 1: the gradient is not finite; lower"):
        trainer.step(batch)
    assert bool(torch.isfinite(trainer.crosscoder.W_dec).all())


def test_running_threshold_that_starts_too_late_stops_the_run_before_its_first_step(
    planted: PlantedData, tmp_path: Path
) -> None:
    config = TrainConfig.minder2025(epochs=1, batch_size=1024)
    with pytest.raises(WorkError, match=r"lower train\.theta_start_step"):
        train(planted.store, PLANTED, config, tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_theta_that_is_no_number_stops_the_run(
    planted: PlantedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparsity, "calibrate_theta", lambda *_: math.nan)
    config = TrainConfig(epochs=1, batch_size=1024)
    with pytest.raises(WorkError, match=r"train\.theta: never calibrated, it is nan"):
        train(planted.store, PLANTED, config, tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_drift_of_a_running_threshold_is_recorded_and_a_large_one_is_warned_of(
    planted: PlantedData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = TrainConfig.minder2025(epochs=2, batch_size=512, theta_start_step=2)
    result = train(planted.store, PLANTED, config, tmp_path)
    assert result.theta_drift is not None
    assert result.theta_drift == pytest.approx(result.quality.l0 / 2 - 1)
    assert result.theta_drift > 0.1
    assert 'set train.theta = "calibrated"' in caplog.text


def test_calibrated_theta_does_not_drift(trained: TrainResult) -> None:
    assert trained.theta_drift == pytest.approx(0.0)


def test_gpu_that_is_not_there_is_refused_and_auto_takes_what_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r'train\.device: "cuda", but PyTorch sees no GPU'):
        resolve_device("cuda")
    assert resolve_device("auto").type == resolve_device("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto").type == "cuda"
    assert resolve_device("cpu").type == "cpu"


def test_bfloat16_changes_the_encoder_product_alone_and_only_by_its_rounding() -> None:
    exact, rounded = make_trainer(), make_trainer(precision="bfloat16")
    batch = random_batch().float()
    first, second = exact.step(batch), rounded.step(batch)
    assert first.loss == pytest.approx(second.loss, rel=2e-2)
    assert first.loss != second.loss
    assert rounded.crosscoder.W_enc.dtype == torch.float32
    torch.testing.assert_close(
        rounded.crosscoder.W_dec, exact.crosscoder.W_dec, rtol=0, atol=2.5e-3
    )


def test_gradients_are_not_copied_out_of_the_memory_that_steps_share() -> None:
    crosscoder = Crosscoder(small_config(), torch.Generator().manual_seed(0))
    workspace, z = Workspace(), random_batch().float()
    places = []
    for _ in range(2):
        crosscoder.zero_grad()
        losses = crosscoder_loss(crosscoder, z, LossSettings(k=3), None, workspace)
        torch.autograd.backward(losses.total)
        assert crosscoder.W_dec.grad is not None
        assert crosscoder.W_enc.grad is not None
        places.append((crosscoder.W_dec.grad.data_ptr(), crosscoder.W_enc.grad.data_ptr()))
    assert places[0] == places[1]


def test_steps_with_shared_memory_equal_steps_without(monkeypatch: pytest.MonkeyPatch) -> None:
    shared, apart = make_trainer(dead_after=30), make_trainer(dead_after=30)
    monkeypatch.setattr(apart, "_workspace", None)
    for seed in range(4):
        batch = random_batch(seed=seed).float()
        assert shared.step(batch) == apart.step(batch)
    assert torch.equal(shared.crosscoder.W_enc, apart.crosscoder.W_enc)
    assert torch.equal(shared.crosscoder.W_dec, apart.crosscoder.W_dec)


class ListSource:
    """Batches from a list, as a source of one's own would give them."""

    def __init__(self, rows: torch.Tensor) -> None:
        self._rows = rows
        self.model_names, self.d_model = ("base", "tuned"), rows.shape[2]
        self.layer, self.tokenizer_sha256 = 3, None
        self.n_train_tokens = len(rows)

    def fingerprint(self) -> str:
        return "f"

    def description(self) -> dict[str, object]:
        return {"source": {"kind": "list"}}

    def n_batches(self, batch_size: int, epochs: float) -> int:
        return round(epochs * (len(self._rows) // batch_size))

    def train_batches(
        self,
        batch_size: int,
        epochs: float,
        seed: int,
        cursor: Mapping[str, torch.Tensor] | None = None,
    ) -> ListBatches:
        start = 0 if cursor is None else int(cursor["at"])
        return ListBatches(self._rows, batch_size, start, self.n_batches(batch_size, epochs))

    def normaliser_batches(self, batch_size: int) -> Iterator[torch.Tensor]:
        return iter(self._rows.split(batch_size))

    def held_out_batches(self, batch_size: int) -> Iterator[torch.Tensor]:
        return iter(self._rows[:64].split(batch_size))


class ListBatches:
    def __init__(self, rows: torch.Tensor, batch_size: int, start: int, total: int) -> None:
        self._pieces = [piece for piece in rows.split(batch_size) if len(piece) == batch_size]
        self._at, self._total = start, total

    def __iter__(self) -> ListBatches:
        return self

    def __next__(self) -> torch.Tensor:
        if self._at >= self._total:
            raise StopIteration
        self._at += 1
        return self._pieces[(self._at - 1) % len(self._pieces)]

    def cursor(self) -> dict[str, torch.Tensor]:
        return {"at": torch.tensor(self._at)}


def test_training_takes_any_source_of_rows_and_goes_on_from_its_cursor(tmp_path: Path) -> None:
    source = ListSource(random_batch(200).float())
    config = TrainConfig(epochs=4, batch_size=64, checkpoint_every=2, warmup_steps=1)
    whole = train(source, small_config(), config, tmp_path / "whole")
    assert read_crosscoder_file(tmp_path / "whole").crosscoder.layer == 3
    with pytest.raises(KeyboardInterrupt):
        train(source, small_config(), config, tmp_path / "cut", StopAfter(7))
    cut = train(source, small_config(), config, tmp_path / "cut")
    assert replace(cut, directory=whole.directory) == whole
    assert whole.n_steps == 12
