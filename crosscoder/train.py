"""Training a crosscoder from activations: to the end, or on from where it stopped."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from crosscoder.activations import ActivationStore
from crosscoder.checkpoints import (
    TrainingCheckpoints,
    crosscoder_tensors,
    fill_crosscoder,
    require_whole_crosscoder,
    save_crosscoder,
)
from crosscoder.config import ACTIVATIONS, Device, TrainConfig
from crosscoder.errors import InputError, WorkError
from crosscoder.evaluate import Quality, measure_quality
from crosscoder.files import (
    json_sha256,
    read_json_object,
    unsealed,
    write_sealed_json,
    write_text,
)
from crosscoder.losses import in_own_coordinates, scale_difference, zero_excluded_weights
from crosscoder.model import Crosscoder, CrosscoderConfig, fit_normaliser
from crosscoder.progress import Progress, SilentProgress
from crosscoder.sources import TrainingSource
from crosscoder.trainer import StepMetrics, Trainer, initial_decoder_bias
from crosscoder.training_sources import StoreSource

logger = logging.getLogger(__name__)


class MetricsLog:
    """metrics.jsonl: one line per step, in order, without steps that an interruption has undone."""

    def __init__(self, path: Path, n_done: int) -> None:
        """Keep the lines of the first `n_done` steps and open the file for the next."""
        write_text(path, "".join(_whole_lines(path, n_done)))
        self._file = path.open("a", encoding="utf-8")

    def write(self, metrics: StepMetrics, seconds: float) -> None:
        """Append one step; `seconds` is the time the step took, waiting for data included."""
        line: Mapping[str, object] = {**asdict(metrics), "seconds": round(seconds, 4)}
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def _whole_lines(path: Path, n_done: int) -> list[str]:
    if n_done == 0 or not path.is_file():
        return []
    with path.open(encoding="utf-8") as file:
        return [line for line in file if line.endswith("\n")][:n_done]


def resolve_device(device: Device) -> torch.device:
    """`auto` is the GPU where PyTorch sees one; InputError where `cuda` is asked for without."""
    sees_gpu = torch.cuda.is_available()
    if device == "cuda" and not sees_gpu:
        raise InputError('train.device: "cuda", but PyTorch sees no GPU here; set it to "auto"')
    return torch.device("cuda" if sees_gpu and device != "cpu" else "cpu")


METRICS_NAME = "metrics.jsonl"
RESULT_NAME = "result.json"
CHECKPOINTS_NAME = "checkpoints"
MAX_DEAD_AFTER_TOKENS = 10_000_000
"""Tokens without activation after which a latent is dead, where an epoch is not shorter."""
DRIFT_WORTH_A_WARNING = 0.1
"""Relative distance of the held-out L0 from k."""
_CURSOR = "cursor."
_WEIGHTS = "crosscoder."


@dataclass(frozen=True)
class TrainResult:
    """A finished training run; also the content of result.json."""

    run_key: str
    """Hash of the configuration and the data; a folder with the same key is not trained again."""
    directory: Path
    """Folder of crosscoder.safetensors and config.json."""
    n_steps: int
    n_tokens: int
    """Training tokens seen, all epochs together."""
    loss: float
    """Objective of the last batch."""
    theta: float
    """Selection threshold on v = a * n."""
    n_dead: int
    """Latents that have not fired for `dead_after_tokens` training tokens."""
    dead_share: float
    """n_dead / n_latents."""
    quality: Quality
    """On the unmasked tokens of the held-out documents."""
    theta_drift: float | None
    """L0 at inference, held out, over k, minus 1; None for activations that aim at no k (`l1`)."""


def train(
    source: ActivationStore | TrainingSource,
    crosscoder_config: CrosscoderConfig,
    train_config: TrainConfig,
    out_dir: Path,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a crosscoder and write it to `out_dir`, with its metrics and its quality.

    A store that was not split yet is split by `train_config.held_out`. A run that was stopped goes
    on from its newest whole checkpoint and ends, on the same CPU, with the same weights bit by
    bit; a finished one is returned as it is. Raises InputError where config and activations do
    not fit, WorkError where the loss is not finite or the disk is full.
    """
    if isinstance(source, ActivationStore):
        if source.held_out is None:
            source = source.split(train_config.held_out, train_config.seed)
        source = StoreSource(source)
    config = _complete_config(crosscoder_config, source)
    run_key = _run_key(source, config, train_config)
    finished = _read_result(out_dir, run_key)
    if finished is not None:
        return finished
    run = _Run(source, config, train_config, out_dir, run_key)
    run.restore_or_start()
    run.train(progress or SilentProgress())
    return run.finish()


class _Run:
    """One training run in one folder."""

    def __init__(
        self,
        source: TrainingSource,
        config: CrosscoderConfig,
        train_config: TrainConfig,
        out_dir: Path,
        run_key: str,
    ) -> None:
        self._source = source
        self._config = config
        self._activation = ACTIVATIONS.get(config.activation)
        self._train_config = train_config
        self._out_dir = out_dir
        self._run_key = run_key
        self._checkpoints = TrainingCheckpoints(out_dir / CHECKPOINTS_NAME, run_key)
        n_train = source.n_train_tokens
        self._batch_size = min(train_config.batch_size, n_train)
        self._n_steps = source.n_batches(self._batch_size, train_config.epochs)
        if self._n_steps == 0:
            raise InputError(
                f"train.epochs: {train_config.epochs:g} epochs of {n_train} tokens are no whole "
                f"step of {self._batch_size}; raise train.epochs or lower train.batch_size"
            )
        self._require_a_threshold()
        self._device = resolve_device(train_config.device)
        self._dead_after = train_config.dead_after_tokens or min(MAX_DEAD_AFTER_TOKENS, n_train)
        # One seed, two independent streams: the weights' and the data order's.
        root = torch.Generator().manual_seed(train_config.seed)
        self._init_seed, self._data_seed = torch.randint(0, 1 << 62, (2,), generator=root).tolist()

    def _require_a_threshold(self) -> None:
        """WorkError, before the first step, where `ema_min` would start after the last."""
        config = self._train_config
        follows = config.theta == "ema_min" and self._activation.aims_at_k
        if follows and self._n_steps <= config.theta_start_step:
            raise WorkError(
                f'train.theta: "ema_min" starts after step {config.theta_start_step} '
                f"and this run has {self._n_steps} steps; lower train.theta_start_step, "
                'or set train.theta = "calibrated"'
            )

    def restore_or_start(self) -> None:
        """Take over the newest checkpoint, or draw the weights."""
        state = self._checkpoints.newest()
        self._stream = self._source.train_batches(
            self._batch_size,
            self._train_config.epochs,
            self._data_seed,
            None if state is None else _under(_CURSOR, state),
        )
        self._batches: Iterator[torch.Tensor] = self._stream
        if state is None:
            first = next(self._stream)
            self._batches = chain([first], self._stream)
            self._trainer = self._new_trainer(self._start(first))
            return
        crosscoder = Crosscoder(self._config)
        fill_crosscoder(crosscoder, _under(_WEIGHTS, state), self._out_dir / CHECKPOINTS_NAME)
        self._trainer = self._new_trainer(crosscoder)
        self._trainer.load_state(state)
        logger.info("training goes on after step %d", self._trainer.n_done)

    def _start(self, first: torch.Tensor) -> Crosscoder:
        """A new crosscoder; its decoder bias comes from the `first` batch."""
        normaliser = None
        if self._config.normalisation == "affine":
            normaliser = fit_normaliser(self._source.normaliser_batches(self._batch_size))
        generator = torch.Generator().manual_seed(self._init_seed)
        crosscoder = Crosscoder(self._config, generator, normaliser)
        z = scale_difference(crosscoder.normalise(first), self._train_config.difference_weight)
        bias = initial_decoder_bias(z, self._train_config.b_dec_init)
        with torch.no_grad():
            crosscoder.b_dec.copy_(bias)
        zero_excluded_weights(crosscoder, self._train_config.exclusive_fraction)
        return crosscoder

    def _new_trainer(self, crosscoder: Crosscoder) -> Trainer:
        crosscoder.to(self._device)
        return Trainer(crosscoder, self._train_config, self._n_steps, self._dead_after)

    def train(self, progress: Progress) -> None:
        """Do the steps that are left."""
        trainer, every = self._trainer, self._train_config.checkpoint_every
        with (
            progress.task("train", self._n_steps, "steps") as advance,
            MetricsLog(self._out_dir / METRICS_NAME, trainer.n_done) as log,
        ):
            advance(trainer.n_done)
            started = time.perf_counter()
            for batch in self._batches:
                metrics = trainer.step(batch)
                now = time.perf_counter()
                log.write(metrics, now - started)
                started = now
                advance(1)
                if trainer.n_done % every == 0 or trainer.n_done == self._n_steps:
                    self._write_checkpoint()

    def finish(self) -> TrainResult:
        """Set theta, measure, write the crosscoder and the result, drop the checkpoints."""
        trainer = self._trainer
        weight = self._train_config.difference_weight
        crosscoder = in_own_coordinates(trainer.crosscoder, weight)
        self._set_theta(crosscoder)
        quality = measure_quality(crosscoder, self._held_out)
        crosscoder.cpu()
        save_crosscoder(crosscoder, self._out_dir, self._provenance())
        n_dead = trainer.dead.numel()
        result = TrainResult(
            run_key=self._run_key,
            directory=self._out_dir,
            n_steps=trainer.n_done,
            n_tokens=trainer.n_tokens,
            loss=trainer.last_loss,
            theta=float(crosscoder.theta),
            n_dead=n_dead,
            dead_share=n_dead / self._config.n_latents,
            quality=quality,
            theta_drift=self._theta_drift(quality),
        )
        content = {**asdict(result), "directory": str(self._out_dir)}
        write_sealed_json(self._out_dir / RESULT_NAME, content, indent=2)
        self._checkpoints.clear()
        return result

    def _theta_drift(self, quality: Quality) -> float | None:
        if not self._activation.aims_at_k:
            return None
        drift = quality.l0 / self._config.k - 1
        if abs(drift) > DRIFT_WORTH_A_WARNING:
            logger.warning(
                "theta: %.1f latents a held-out token are active, k is %d; %s",
                quality.l0,
                self._config.k,
                "k is more than there is to say, lower train.k"
                if drift < 0
                else 'set train.theta = "calibrated"',
            )
        return drift

    def _set_theta(self, crosscoder: Crosscoder) -> None:
        theta = float(crosscoder.theta)
        if self._train_config.theta == "calibrated" or not self._activation.aims_at_k:
            theta = self._activation.threshold(crosscoder, self._held_out)
        if not (math.isfinite(theta) and theta >= 0):
            raise WorkError(
                f"train.theta: never calibrated, it is {theta:g} after the last step; lower "
                "train.learning_rate, or harvest with storage_dtype = float32"
            )
        crosscoder.theta.fill_(theta)

    def _write_checkpoint(self) -> None:
        tensors = self._trainer.state()
        for name, tensor in crosscoder_tensors(self._trainer.crosscoder).items():
            tensors[_WEIGHTS + name] = tensor
        for name, tensor in self._stream.cursor().items():
            tensors[_CURSOR + name] = tensor
        self._checkpoints.write(self._trainer.n_done, tensors)

    def _held_out(self) -> Iterator[torch.Tensor]:
        return self._source.held_out_batches(self._batch_size)

    def _provenance(self) -> dict[str, Any]:
        return {
            "run_key": self._run_key,
            "train": self._train_config.model_dump(mode="json"),
            "n_steps": self._n_steps,
            **self._source.description(),
        }


def _under(prefix: str, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }


def _complete_config(config: CrosscoderConfig, source: TrainingSource) -> CrosscoderConfig:
    """The config with what the source knows filled in; InputError where the two disagree."""
    stored = {
        "n_models": len(source.model_names),
        "d_model": source.d_model,
        "model_names": source.model_names,
    }
    for key, value in stored.items():
        asked = getattr(config, key)
        if asked != value:
            raise InputError(f"crosscoder.{key}: {asked!r}, but the activations have {value!r}")
    known = {"layer": source.layer, "tokenizer_sha256": source.tokenizer_sha256}
    missing = {key: value for key, value in known.items() if getattr(config, key) is None}
    return config.model_copy(update=missing)


def _run_key(source: TrainingSource, config: CrosscoderConfig, train_config: TrainConfig) -> str:
    """Hash of everything that decides the weights; how often to checkpoint does not."""
    known = {
        "crosscoder": config.model_dump(mode="json"),
        "train": train_config.hash_content(exclude={"checkpoint_every"}),
        "data": source.fingerprint(),
    }
    return json_sha256(known)


def _read_result(out_dir: Path, run_key: str) -> TrainResult | None:
    """The result of a finished run of that key whose files are all what was written."""
    path, remedy = out_dir / RESULT_NAME, "training starts again"
    if not path.is_file():
        return None
    try:
        content = unsealed(path, read_json_object(path, remedy), remedy)
        if content.get("run_key") != run_key:
            return None
        require_whole_crosscoder(out_dir)
        result = TypeAdapter(TrainResult).validate_python(content)
    except ValidationError:
        return None
    except InputError as error:
        logger.warning("%s", error)
        return None
    return replace(result, directory=out_dir)
