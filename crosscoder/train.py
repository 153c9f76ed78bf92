"""Training a crosscoder from activations: to the end, or on from where it stopped."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property
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
from crosscoder.model import Crosscoder, CrosscoderConfig, Normaliser, fit_normaliser
from crosscoder.progress import Progress, SilentProgress
from crosscoder.sources import BatchStream, TrainingSource
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
    (result,) = train_seeds(source, crosscoder_config, train_config, (out_dir,), progress)
    return result


def train_seeds(
    source: ActivationStore | TrainingSource,
    crosscoder_config: CrosscoderConfig,
    train_config: TrainConfig,
    out_dirs: Sequence[Path],
    progress: Progress | None = None,
) -> tuple[TrainResult, ...]:
    """Train a crosscoder for each folder in one pass: a batch is read once and given to all.

    They differ in the seed of their weights, which counts up from `train_config.seed`. Each is
    what `train` makes of `of_seed`. All are in memory at a time, with the state of their
    optimisers. Stopped and finished ones are treated, and errors raised, as by `train`.
    """
    if isinstance(source, ActivationStore):
        if source.held_out is None:
            source = source.split(train_config.held_out, train_config.seed)
        source = StoreSource(source)
    config = _complete_config(crosscoder_config, source)
    data = _Data(source, train_config)
    runs = [
        _Run(data, config, of_seed(train_config, number), out_dir)
        for number, out_dir in enumerate(out_dirs)
    ]
    unfinished = [run for run in runs if run.result is None]
    if unfinished:
        _one_pass(data, unfinished, progress or SilentProgress())
    return tuple(run.result or run.finish() for run in runs)


def of_seed(config: TrainConfig, number: int) -> TrainConfig:
    """The config with other weights at the start: `number` 0 leaves it as it is."""
    if number == 0:
        return config
    data_seed = config.seed if config.data_seed is None else config.data_seed
    return config.model_copy(update={"seed": config.seed + number, "data_seed": data_seed})


def _drawn_seeds(seed: int) -> tuple[int, int]:
    """One seed, two independent streams: the weights' and the data order's."""
    root = torch.Generator().manual_seed(seed)
    weights, order = torch.randint(0, 1 << 62, (2,), generator=root).tolist()
    return weights, order


class _Data:
    """The batches of one pass, and what all crosscoders know of the activations."""

    def __init__(self, source: TrainingSource, train_config: TrainConfig) -> None:
        self.source = source
        n_train = source.n_train_tokens
        self._epochs = train_config.epochs
        self.batch_size = min(train_config.batch_size, n_train)
        self.n_steps = source.n_batches(self.batch_size, self._epochs)
        if self.n_steps == 0:
            raise InputError(
                f"train.epochs: {self._epochs:g} epochs of {n_train} tokens are no whole "
                f"step of {self.batch_size}; raise train.epochs or lower train.batch_size"
            )
        self.dead_after = train_config.dead_after_tokens or min(MAX_DEAD_AFTER_TOKENS, n_train)
        seed = train_config.seed if train_config.data_seed is None else train_config.data_seed
        _, self._seed = _drawn_seeds(seed)

    def batches(self, cursor: Mapping[str, torch.Tensor] | None) -> BatchStream:
        """Shuffled batches, from the cursor on."""
        return self.source.train_batches(self.batch_size, self._epochs, self._seed, cursor)

    @cached_property
    def normaliser(self) -> Normaliser:
        """Mean and scale of the training text."""
        return fit_normaliser(self.source.normaliser_batches(self.batch_size))

    def held_out(self) -> Iterator[torch.Tensor]:
        """The held-out rows."""
        return self.source.held_out_batches(self.batch_size)


def _one_pass(data: _Data, runs: Sequence[_Run], progress: Progress) -> None:
    """Do the steps that are left: those behind catch up, those ahead wait for them."""
    for run in runs:
        run.restore()
    last = min(runs, key=lambda run: run.n_done)
    stream = data.batches(last.cursor)
    with (
        progress.task("train", data.n_steps, "steps") as advance,
        ExitStack() as files,
    ):
        logs = [
            files.enter_context(MetricsLog(run.out_dir / METRICS_NAME, run.n_done)) for run in runs
        ]
        advance(last.n_done)
        started = time.perf_counter()
        for n_before, batch in enumerate(stream, start=last.n_done):
            for run, log in zip(runs, logs, strict=True):
                if run.n_done > n_before:
                    continue
                metrics = run.step(batch)
                now = time.perf_counter()
                log.write(metrics, now - started)
                started = now
                run.write_due_checkpoint(stream)
            advance(1)


class _Run:
    """The training of one crosscoder in one folder."""

    def __init__(
        self, data: _Data, config: CrosscoderConfig, train_config: TrainConfig, out_dir: Path
    ) -> None:
        self._data = data
        self._config = config
        self._activation = ACTIVATIONS.get(config.activation)
        self._train_config = train_config
        self.out_dir = out_dir
        self._run_key = _run_key(data.source, config, train_config)
        self._checkpoints = TrainingCheckpoints(out_dir / CHECKPOINTS_NAME, self._run_key)
        self._device = resolve_device(train_config.device)
        self._trainer: Trainer | None = None
        self.cursor: Mapping[str, torch.Tensor] | None = None
        """Place in the batches of the checkpoint that was taken over."""
        self.result = _read_result(out_dir, self._run_key)
        """What was finished earlier."""
        if self.result is None:
            self._require_a_threshold()

    @property
    def n_done(self) -> int:
        """Steps done."""
        return 0 if self._trainer is None else self._trainer.n_done

    def _require_a_threshold(self) -> None:
        """WorkError, before the first step, where `ema_min` would start after the last."""
        config = self._train_config
        follows = config.theta == "ema_min" and self._activation.aims_at_k
        if follows and self._data.n_steps <= config.theta_start_step:
            raise WorkError(
                f'train.theta: "ema_min" starts after step {config.theta_start_step} '
                f"and this run has {self._data.n_steps} steps; lower train.theta_start_step, "
                'or set train.theta = "calibrated"'
            )

    def restore(self) -> None:
        """Take over the newest checkpoint, where there is one."""
        state = self._checkpoints.newest()
        if state is None:
            return
        crosscoder = Crosscoder(self._config)
        fill_crosscoder(crosscoder, _under(_WEIGHTS, state), self.out_dir / CHECKPOINTS_NAME)
        self._trainer = self._new_trainer(crosscoder)
        self._trainer.load_state(state)
        self.cursor = _under(_CURSOR, state)
        logger.info("training goes on after step %d", self.n_done)

    def _start(self, first: torch.Tensor) -> Crosscoder:
        """A new crosscoder; its decoder bias comes from the `first` batch."""
        normaliser = self._data.normaliser if self._config.normalisation == "affine" else None
        weights_seed, _ = _drawn_seeds(self._train_config.seed)
        generator = torch.Generator().manual_seed(weights_seed)
        crosscoder = Crosscoder(self._config, generator, normaliser)
        z = scale_difference(crosscoder.normalise(first), self._train_config.difference_weight)
        bias = initial_decoder_bias(z, self._train_config.b_dec_init)
        with torch.no_grad():
            crosscoder.b_dec.copy_(bias)
        zero_excluded_weights(crosscoder, self._train_config.exclusive_fraction)
        return crosscoder

    def _new_trainer(self, crosscoder: Crosscoder) -> Trainer:
        crosscoder.to(self._device)
        data = self._data
        return Trainer(crosscoder, self._train_config, data.n_steps, data.dead_after)

    def step(self, batch: torch.Tensor) -> StepMetrics:
        """One step on raw activations (B, M, d); the first one draws the weights."""
        if self._trainer is None:
            self._trainer = self._new_trainer(self._start(batch))
        return self._trainer.step(batch)

    def write_due_checkpoint(self, stream: BatchStream) -> None:
        """A checkpoint with the place in `stream`, at each so many steps and at the last."""
        if self.n_done % self._train_config.checkpoint_every and self.n_done < self._data.n_steps:
            return
        trainer = self._started
        tensors = trainer.state()
        for name, tensor in crosscoder_tensors(trainer.crosscoder).items():
            tensors[_WEIGHTS + name] = tensor
        for name, tensor in stream.cursor().items():
            tensors[_CURSOR + name] = tensor
        self._checkpoints.write(trainer.n_done, tensors)

    @property
    def _started(self) -> Trainer:
        if self._trainer is None:
            raise RuntimeError("no step was taken")
        return self._trainer

    def finish(self) -> TrainResult:
        """Set theta, measure, write the crosscoder and the result, drop the checkpoints."""
        trainer = self._started
        weight = self._train_config.difference_weight
        crosscoder = in_own_coordinates(trainer.crosscoder, weight)
        self._set_theta(crosscoder)
        quality = measure_quality(crosscoder, self._data.held_out)
        crosscoder.cpu()
        save_crosscoder(crosscoder, self.out_dir, self._provenance())
        n_dead = trainer.dead.numel()
        result = TrainResult(
            run_key=self._run_key,
            directory=self.out_dir,
            n_steps=trainer.n_done,
            n_tokens=trainer.n_tokens,
            loss=trainer.last_loss,
            theta=float(crosscoder.theta),
            n_dead=n_dead,
            dead_share=n_dead / self._config.n_latents,
            quality=quality,
            theta_drift=self._theta_drift(quality),
        )
        content = {**asdict(result), "directory": str(self.out_dir)}
        write_sealed_json(self.out_dir / RESULT_NAME, content, indent=2)
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
            theta = self._activation.threshold(crosscoder, self._data.held_out)
        if not (math.isfinite(theta) and theta >= 0):
            raise WorkError(
                f"train.theta: never calibrated, it is {theta:g} after the last step; lower "
                "train.learning_rate, or harvest with storage_dtype = float32"
            )
        crosscoder.theta.fill_(theta)

    def _provenance(self) -> dict[str, Any]:
        return {
            "run_key": self._run_key,
            "train": self._train_config.model_dump(mode="json"),
            "n_steps": self._data.n_steps,
            **self._data.source.description(),
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
    unread = {"checkpoint_every"} | ({"data_seed"} if train_config.data_seed is None else set())
    known = {
        "crosscoder": config.model_dump(mode="json"),
        "train": train_config.hash_content(exclude=unread),
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
